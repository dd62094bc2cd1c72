"""Numbers of a YAML file as people write them."""

import pytest
import yaml

from spatialvla.common.yaml_files import load, parse_yaml
from spatialvla.errors import InputError


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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 3000, "nested too deeply"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: " + "7" * 5000, "value has 5000 digits"),
        ("a: 2025-13-45", "month must be in 1..12"),
        ("a: [1", "expected"),
        ("a: 0.02\nb: {c: 1, d: 2, c: 3}", "the entry 'c' is there twice"),
    ],
    ids=["unfinished", "deep", "digits", "date", "broken", "twice"],
)
def test_absurd_content_is_one_sentence(tmp_path, text, reason):
    with pytest.raises(yaml.YAMLError, match=reason):
        parse_yaml(text)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"a\.yaml is no YAML file \([^\n]*{reason}[^\n]*\)\.$"):
        load("limits", str(tmp_path / "a.yaml"), lambda path, raw: raw, folder="limits")
