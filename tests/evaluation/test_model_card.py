"""The model card: what the Hub reads of it, and what people do."""

import pytest
from huggingface_hub import ModelCard
from some_results import some_results

from spatialvla.actions.units import LIBERO, UNKNOWN
from spatialvla.cli.main import main
from spatialvla.errors import InputError
from spatialvla.evaluation.report.model_card import CardFacts, model_card
from spatialvla.evaluation.results.provenance import hash_checkpoint
from spatialvla.model.folders import SHIPPED

FACTS = CardFacts(
    name="robots/cups",
    parameters=4_031_551_168,
    chunk=4,
    cameras=("image", "wrist"),
    state=("x", "y"),
    datasets={"libero_spatial": LIBERO, "mine|1": UNKNOWN},
    license="gemma",
    base="IPEC-COMMUNITY/spatialvla-4b-224-pt",
    training={"batch size": "32"},
)


def test_the_hub_reads_the_license_the_base_and_the_success_rate():
    card = ModelCard(model_card(FACTS, [some_results("++-- ++++"), some_results("+-", "libero_goal")]))
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("gemma", "spatialvla", "robotics")
    assert data.base_model == "IPEC-COMMUNITY/spatialvla-4b-224-pt"
    assert [(found.dataset_type, found.metric_value) for found in data.eval_results] == [
        ("libero_spatial", 0.75),
        ("libero_goal", 0.5),
    ]
    assert "6 of 8 episodes, 95 % interval 41 to 93 %" in card.text
    assert "4,031,551,168" in card.text
    assert "| `libero_spatial` | 1 = 0.05 m, 0.5 rad |" in card.text
    assert r"mine\|1" in card.text, "no cell is broken in two"


def test_what_is_not_known_is_said():
    bare = CardFacts("mine", 1, 4, ("image",), (), {"mine": UNKNOWN}, base="/home/me/base")
    text = model_card(bare)
    assert ModelCard(text).data.base_model is None
    assert "Not evaluated." in text
    assert "## License\n\nNot stated." in text
    assert "1 in an action" in text
    assert "of unknown units" in text
    part = some_results("++", episodes_per_task=3)
    shown = ModelCard(model_card(bare, [part]))
    assert shown.data.eval_results is None, "an evaluation under way is no result for the Hub"
    assert "not all" in shown.text or "missing" in shown.text
    with pytest.raises(InputError, match="no episode yet"):
        model_card(bare, [some_results("+", episodes=())])


def test_a_checkpoints_own_folder_gets_a_card_as_well(tmp_path):
    """Its config.json is the network's, and not a run's."""
    plain, out = tmp_path / "plain", tmp_path / "hub"
    main(["export", "--policy", "nano", "--out", str(plain)])
    main(["export", "--policy", str(plain), "--out", str(out), "--to", "hub-folder"])
    assert ModelCard.load(out / "README.md").data.model_name == "hub"


def test_export_writes_the_card_into_the_folder(tmp_path, capsys):
    some_results("++- +-+", checkpoint=hash_checkpoint(SHIPPED / "nano")).save(tmp_path / "results.json")
    out = tmp_path / "hub"
    asked = ["export", "--policy", "nano", "--out", str(out), "--to", "hub-folder", "--license", "apache-2.0"]
    main([*asked, "--results", str(tmp_path / "results.json"), "--name", "robots/nano"])
    card = ModelCard.load(out / "README.md")
    assert card.data.model_name == "robots/nano"
    assert card.data.eval_results[0].metric_value == pytest.approx(0.6667)
    assert (out / "model.safetensors").exists()
    assert "| parameters | 5,765,330 |" in card.text
    with pytest.raises(SystemExit):
        main(["export", "--policy", "nano", "--out", str(tmp_path / "bare"), "--license", "mit"])
    assert "add --to hub-folder" in capsys.readouterr().err
    assert not (tmp_path / "bare").exists()


@pytest.mark.parametrize(("checkpoint", "told"), [("f" * 64, "f" * 12), (None, "not told")])
def test_a_card_says_no_other_policys_rates(tmp_path, capsys, checkpoint, told):
    some_results("+-", policy="micro", checkpoint=checkpoint).save(tmp_path / "results.json")
    out = tmp_path / "hub"
    asked = ["export", "--policy", "nano", "--out", str(out), "--to", "hub-folder"]
    with pytest.raises(SystemExit):
        main([*asked, "--results", str(tmp_path)])
    digest = hash_checkpoint(SHIPPED / "nano")[:12]
    assert f"are of micro, checkpoint {told}, and nano is {digest}" in capsys.readouterr().err
    assert not out.exists()


def test_another_harness_does_not_know_the_weights(tmp_path):
    some_results("+-", checkpoint=None, harness="vla-eval 0.8.0").save(tmp_path / "results.json")
    out = tmp_path / "hub"
    main(["export", "--policy", "nano", "--out", str(out), "--to", "hub-folder", "--results", str(tmp_path)])
    assert "vla-eval 0.8.0" in (out / "README.md").read_text()
