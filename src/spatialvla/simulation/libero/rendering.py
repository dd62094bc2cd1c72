"""Cheaper rendering that keeps the picture: meshes finer than a pixel are thinned out."""

from __future__ import annotations

from typing import Any

import numpy as np

FROM_AFAR = 0.045  # of a mesh's longest side: 5 mm for a bowl, where a pixel of a 128² picture spans 6.5 mm
AT_HAND = 0.015  # the same for a camera on the wrist, a hand's breadth from a bowl whose shading would break
_WORTHWHILE = 1500  # faces; smaller meshes cost nothing


def thin_meshes(model: Any, detail: float) -> None:
    """Merges the vertices of each fine mesh that share a cell of a cubic grid, in place.

    model: mujoco.MjModel. Call before its rendering context is made. Only drawing changes: LIBERO collides
    with other geometries. Vertex clustering after Rossignac and Borrel (1993).
    detail: side of the grid's cells as a share of the mesh's longest side.
    """
    for mesh in range(model.nmesh):
        face_count = model.mesh_facenum[mesh]
        if face_count >= _WORTHWHILE:
            first_vertex, first_face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
            vertices = model.mesh_vert[first_vertex : first_vertex + model.mesh_vertnum[mesh]]
            cell = detail * np.ptp(vertices, axis=0).max()
            cells = np.floor(vertices / cell).astype(np.int64)
            _, representative, member = np.unique(cells, axis=0, return_index=True, return_inverse=True)
            faces = representative[member.ravel()[model.mesh_face[first_face : first_face + face_count]]]
            kept = np.flatnonzero(
                (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
            )
            target = slice(first_face, first_face + len(kept))
            model.mesh_face[target] = faces[kept]
            model.mesh_facenormal[target] = model.mesh_facenormal[first_face + kept]
            model.mesh_facetexcoord[target] = model.mesh_facetexcoord[first_face + kept]
            model.mesh_facenum[mesh] = len(kept)


def meters(z_buffer: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth along the optical axis from an OpenGL depth buffer.

    z_buffer: any shape, in [0, 1]. near, far: clipping planes in meters.
    """
    return near / (1 - z_buffer * (1 - near / far))
