from dataclasses import replace

import pytest
from some_results import shards, some_results

from spatialvla.cli.main import main
from spatialvla.evaluation.results.document import Results

WHOLE = some_results("+-+ --- ++-")


def test_results_are_printed_and_written(tmp_path, capsys):
    WHOLE.save(tmp_path / "results.json")
    main(["results", str(tmp_path), "--out", str(tmp_path / "page")])
    printed = capsys.readouterr().out
    assert "| **nano** | 44.4 % (18.9–73.3; 4/9) |" in printed
    assert "SpatialVLA, fine-tuned [1]" in printed
    assert (tmp_path / "page" / "results.md").read_text().startswith("# nano\n")
    assert "<h2>LIBERO</h2>" in (tmp_path / "page" / "results.html").read_text()


def test_shards_become_one_file(tmp_path):
    for part in shards(WHOLE, 2):
        part.save(tmp_path / f"results-{part.shard.number}-of-2.json")
    main(["results", str(tmp_path), "--merged", str(tmp_path / "all.json")])
    assert Results.load(tmp_path / "all.json").episodes == WHOLE.episodes


def test_shards_may_lie_beside_the_file_that_they_were_merged_into(tmp_path, capsys):
    for part in shards(WHOLE, 2):
        part.save(tmp_path / f"results-{part.shard.number}-of-2.json")
    for _ in range(2):
        main(["results", str(tmp_path), "--merged", str(tmp_path / "results.json")])
        assert capsys.readouterr().out.count("| **nano** |") == 1
    main(["compare", str(tmp_path), str(tmp_path)])
    assert "in the same episodes; with 9 of them" in capsys.readouterr().out


def test_a_published_copy_says_all_but_where_it_was_played(tmp_path, capsys):
    home = "/home/ada/robots"
    episodes = tuple(replace(episode, video=f"videos/{i}.mp4") for i, episode in enumerate(WHOLE.episodes))
    played = replace(WHOLE, policy_path=home, command=f"evaluate --policy {home}", episodes=episodes)
    played.save(tmp_path / "results.json")
    copy = tmp_path / "copy.json"
    main(["results", str(tmp_path), "--publish", str(copy)])
    assert home not in copy.read_text()
    assert Results.load(copy) == WHOLE
    printed = capsys.readouterr().out
    main(["results", str(copy)])
    assert capsys.readouterr().out == printed


def test_two_evaluations_are_compared(tmp_path, capsys):
    WHOLE.save(tmp_path / "a.json")
    some_results("+++ +++ +++", policy="micro", checkpoint="f").save(tmp_path / "b.json")
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    printed = capsys.readouterr().out
    assert "## nano and micro on libero_spatial" in printed
    assert "p, exact McNemar test: 0.062" in printed  # 2 / 2^5
    assert "| All tasks | 44 % | 100 % | 4 | 0 | 5 | 0 | +55.6 |" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results"], "nothing to show"),
        (["results", "nowhere.json"], "nowhere.json does not exist"),
        (["results", "a.json", "b.json", "--merged", "c.json"], "2 evaluations; --merged writes one"),
        (["results", "a.json", "b.json", "--publish", "c.json"], "2 evaluations; --publish writes one"),
        (["compare", "folder", "a.json"], "holds 2 evaluations; name one file"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    WHOLE.save(tmp_path / "a.json")
    some_results("+-", "libero_10").save(tmp_path / "b.json")
    for number in (1, 2):
        some_results("+-", checkpoint=str(number)).save(tmp_path / "folder" / f"results{number}.json")
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
