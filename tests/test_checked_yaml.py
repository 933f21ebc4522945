"""YAML that people write, and YAML that was written to break its reader."""

import pytest

from psalm_hf.checked_yaml import line_of_field, read_yaml, read_yaml_file


def test_plain_values_are_read_and_dates_stay_text():
    text = "{a: 1, b: 0.5, c: yes, d: null, e: [x, 'y'], f: 2026-01-01, 0: cup}"
    assert read_yaml(text, "it") == {"a": 1, "b": 0.5, "c": True, "d": None, "e": ["x", "y"], "f": "2026-01-01", 0: "cup"}
    assert read_yaml("", "it") is None


def test_aliases_and_merged_mappings_are_read():
    assert read_yaml("base: &a {x: 1}\nother: {<<: *a, y: 2}\nlist: [*a]", "it")["other"] == {"x": 1, "y": 2}


def bomb(form):
    names = "abcdefghij"
    lines = ["a: &a {x: 1}"] + [
        f"{name}: &{name} {form.format(', '.join([f'*{before}'] * 9))}" for before, name in zip(names, names[1:], strict=False)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "line 1, column 5: .*expected the node content"),
        ("a:\n\t- b", "line 2, column 1: .*found character '.t'"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' is there twice"),
        ("a: {b: 1, b: 2}", "line 1, column 11: 'b' is there twice"),
        (bomb("[{}]"), "line .*: there are more than 100000 values, aliases written out"),
        (bomb("{{<<: [{}]}}"), "line .*: there are more than 100000 values, aliases written out"),
        ("a: &a [*a]", "line 1, column 4: an alias stands for something that holds itself"),
        ("a: " + "[" * 60 + "]" * 60, "line 1, column 53: lists or mappings lie more than 50 deep"),
        ("a: " + "[" * 5000, "too deep in each other"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4: 'python/object/apply:os.system' is no plain value"),
        ("a: !!set {b}", "'set' is no plain value"),
        ("a: !!int ''", "index out of range"),
        ('a: "\\ud800"', "line 1, column 4: a text holds a zero byte or half of a character"),
        ("a: " + "9" * 5000, "line 1, column 4: a number has 5000 characters"),
        ("a: 1\n---\nb: 2", "line 2, column 1: .*expected a single document"),
        ("? [a]\n: 1", "line 1, column 3: .*found unhashable key"),
        ("\x01", "unacceptable character"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_its_place(text, message):
    with pytest.raises(ValueError, match=rf"^it is no YAML \(.*{message}") as refused:
        read_yaml(text, "it")
    assert "\n" not in str(refused.value)


def test_files_are_bounded_and_in_utf_8(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfea: 1")
    with pytest.raises(ValueError, match=f"{path}: is no text in UTF-8"):
        read_yaml_file(path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match=f"{path}: is no YAML that somebody wrote: it has more than 1048576 bytes"):
        read_yaml_file(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_yaml_file(tmp_path)


def test_the_line_of_a_field_is_found(tmp_path):
    (tmp_path / "c.yaml").write_text("a: 1\n\nb:\n  a: 2\n")
    assert [line_of_field(tmp_path / "c.yaml", name) for name in ("a", "b", "c")] == [1, 3, None]
