import numpy as np
import pytest

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.rendering import meters, thin_meshes
from spatialvla.simulation.libero.tasks import tasks
from spatialvla.simulation.libero.viewpoints import WRIST_CAMERA


@pytest.mark.parametrize("depth", [0.02, 0.5, 1.3, 40.0])
def test_meters_inverts_the_perspective_depth_buffer(depth):
    near, far = 0.0106, 530.0
    z_buffer = (1 / near - 1 / depth) / (1 / near - 1 / far)
    assert meters(np.array(z_buffer), near, far) == pytest.approx(depth, rel=1e-6)


def test_thinning_keeps_the_shape_with_fewer_faces():
    mujoco = pytest.importorskip("mujoco")
    u, v = np.meshgrid(np.linspace(0, np.pi, 60), np.linspace(0, 2 * np.pi, 60), indexing="ij")
    points = np.stack([np.sin(u) * np.cos(v), np.sin(u) * np.sin(v), np.cos(u)], -1).reshape(-1, 3)
    vertices = " ".join(f"{x:.6f}" for x in points.ravel())
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><asset><mesh name="ball" vertex="{vertices}"/></asset>'
        '<worldbody><geom type="mesh" mesh="ball"/></worldbody></mujoco>'
    )
    before = int(model.mesh_facenum[0])
    thin_meshes(model, detail=0.05)
    after = int(model.mesh_facenum[0])
    assert 100 < after < before / 2
    radius = np.linalg.norm(model.mesh_vert[model.mesh_face[:after].ravel()], axis=1)
    assert radius.min() > 0.9
    corners = model.mesh_face[:after]
    assert (np.sort(corners, axis=1)[:, 1:] != np.sort(corners, axis=1)[:, :-1]).all()


@pytest.mark.sim
def test_what_the_wrist_sees_at_hand_is_thinned_less():
    """Thinned for the scene's camera, a bowl between the fingers has broken shading, which a policy would learn."""
    (task, *_) = tasks("libero_spatial")
    env = LiberoEnv(task)
    env.sample_state(np.random.default_rng(0))
    env.settle()
    expert = LiberoExpert(env)
    while (action := expert())[6] > 0.5:  # until the fingers close around the bowl
        env.step(action)
    at_bowl, seen = env.state(), {}
    env.close()
    for rendering in ("stock", "near", "fast"):
        env = LiberoEnv(task, rendering=rendering)
        env.reset_to(at_bowl)
        with env.looking_through(WRIST_CAMERA):
            seen[rendering] = env.render().astype(float)
        env.close()
    off = {name: np.abs(picture - seen["stock"]).mean() for name, picture in seen.items()}
    assert 0 < off["near"] < off["fast"] / 2
