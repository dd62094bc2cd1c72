"""Numbers of a YAML file as people write them."""

from spatialvla.common.yaml_files import parse_yaml


def test_numbers_with_an_exponent_are_numbers():
    text = "{a: 1e-3, b: -2E5, c: 1.5e+2, d: 1e, e: 12, f: 0.5, g: text, h: '1e-3', i: 1.e3}"
    expected = {
        "a": 1e-3,
        "b": -2e5,
        "c": 150.0,
        "d": "1e",
        "e": 12,
        "f": 0.5,
        "g": "text",
        "h": "1e-3",
        "i": 1e3,
    }
    assert parse_yaml(text) == expected
    assert isinstance(parse_yaml("12"), int)
