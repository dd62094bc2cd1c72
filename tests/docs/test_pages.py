"""What the pages say of the code is so: paths, verbs, the tree of files; and they read like one hand wrote them."""

import re
import runpy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from pages import PAGES, ROOT

from spatialvla.cli.main import VERBS, main

PATH = re.compile(
    r"(?<![\w/])(?:src/spatialvla|tests|benchmarks|examples|packages|recipes)/[\w./-]+\.(?:py|cpp|yaml|json|md|sbatch|sh)\b"
)
BRITISH = re.compile(
    r"\b\w*(?:metre|colour|centre|normalis|initialis|behaviour|licence|neighbour|tokenis|quantis)\w*", re.I
)
LINK = re.compile(r"\]\((?P<path>(?!https?:)[\w./-]*)(?:#(?P<anchor>[\w.-]+))?\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*(?:\.[a-z][\w-]*)*")
LONGEST = 110

LEROBOT_POLICY = (
    *(
        "type",
        "path",
        "mapping",
        "depth_unit",
        "dtype",
        "learning_rate",
        "unknown_units",
        "augmentation",
        "network",
    ),
    *("start.policy", "start.add_camera", "start.chunk_size", "adaptation.mode", "objective.depth"),
    *("execution.mode", "execution.steps"),
)
"""Options of our policy in LeRobot, which are read where LeRobot is installed."""

OTHERS_OPTIONS = {
    "--verbose",  # of every verb, taken before its own options are read
    *("--args.replan-steps", "--no-docker", "--render"),  # openpi's script, vla-eval
    *("--policy_type", "--pretrained_name_or_path", "--fps", "--task"),  # LeRobot's robot client
    *("--resume", "--config_path", "--return_to_initial_position", "--strategy.type", "--inference.type"),
    *("--dataset.depth_output_unit", "--dataset.image_transforms", "--env.init_states"),  # LeRobot's commands
    *("--peft.method_type", "--peft.r", "--peft.lora_alpha", "--peft.full_training_modules"),
    "--peft.target_modules",
    *(f"--policy.{name}" for name in LEROBOT_POLICY),
    *("--alone", "--batch", "--case", "--rounds", "--speculation", "--mfu", "--peak", "--rows"),  # benchmarks
    *(
        "--results",
        "--frames",
        "--ways",
        "--starts",
        "--states",
        "--clients",
        "--files",
        "--threads",
        "--host",
    ),
    "--bind",  # rerun's viewer
    "--traffic",  # a group of options
    *(
        "--action_forward_steps",
        "--adapt_emb",
        "--adpt_feature",
        "--bf16",
        "--data_mix",
        "--data_root_dir",
        "--dataloader_num_workers",
        "--deepspeed",
        "--flash_attn",
        "--freeze_llm_embed",
        "--freeze_vision_tower",
        "--grad_checkpoint",
        "--gradient_accumulation_steps",
        "--intrinsic_config_path",
        "--learning_rate",
        "--lora",
        "--lora_alpha",
        "--lora_target",
        "--lr_scheduler_type",
        "--max_grad_norm",
        "--max_seq_length",
        "--max_steps",
        "--min_sigma",
        "--model_name_or_path",
        "--modules_to_save",
        "--normalized_statistic_path",
        "--num_train_epochs",
        "--obs_backward_delta",
        "--obs_backward_steps",
        "--overwrite_output_dir",
        "--per_device_train_batch_size",
        "--read_thread_muti",
        "--report_to",
        "--resume_from_checkpoint",
        "--save_steps",
        "--save_total_limit",
        "--shuffle_buffer_size",
        "--tf32",
        "--tsfm_thread_muti",
        "--use_vision_zoe",
        "--vision_zoe_path",
        "--vlm_path",
        "--warmup_ratio",
        "--weight_decay",
    ),  # the published training scripts
}


def test_the_tree_is_that_of_the_files():
    """Where this fails, run `python docs/extensions/tree.py`."""
    tree = runpy.run_path(str(ROOT / "docs" / "extensions" / "tree.py"))
    page = tree["page"]()
    assert tree["PAGE"].read_text() == page
    assert "|  |" not in page, "a file without a first line"


def test_the_table_of_datasets_is_that_of_the_specs():
    """Where this fails, run `python docs/extensions/open_x.py`."""
    table = runpy.run_path(str(ROOT / "docs" / "extensions" / "open_x.py"))
    page = table["page"]()
    assert table["PAGE"].read_text() == page
    rows = page.split(table["BEGIN"])[1].split(table["END"])[0].strip().splitlines()[2:]
    without = [sum(row.split(" | ")[column] == "–" for row in rows) for column in (2, 3)]
    assert (len(rows), without) == (28, [11, 1]), "the page says so, too"


def test_the_drawing_of_the_frames_is_that_of_the_code():
    """Where this fails, run `python docs/extensions/frames.py`."""
    drawing = runpy.run_path(str(ROOT / "docs" / "extensions" / "frames.py"))
    assert drawing["PICTURE"].read_text() == drawing["picture"]()


def test_every_verb_has_its_help_on_the_page():
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    assert set(re.findall(r"^<!-- help: (.+) -->$", page, re.MULTILINE)) == set(VERBS)


def test_every_public_name_is_on_the_api_pages():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("api*.md"))
    stub = (ROOT / "src" / "spatialvla" / "__init__.pyi").read_text()
    names = re.findall(r"^from \.([\w.]+) import (\w+) as", stub, re.MULTILINE)
    assert names
    assert not [name for module, name in names if f"::: spatialvla.{module}.{name}\n" not in pages]


def test_options_in_the_prose_are_options(capsys: pytest.CaptureFixture[str]):
    """Those in blocks are parsed in test_code_blocks.py."""
    for verb in VERBS:
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
    known = set(OPTION.findall(capsys.readouterr().out)) | OTHERS_OPTIONS
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        said = {option for span in re.findall(r"`([^`]+)`", prose) for option in OPTION.findall(span)}
        assert not said - known, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path):
    assert not [name for name in PATH.findall(page.read_text()) if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    """`make docs` checks this, too, and the anchors of the API, which are not in the pages."""
    for link in LINK.finditer(page.read_text()):
        target = page.parent / link["path"] if link["path"] else page
        assert target.exists(), link[0]
        if link["anchor"] and "." not in link["anchor"]:
            assert link["anchor"] in anchors(target), link[0]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in addresses."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def test_the_ways_name_files_that_exist():
    """The diagrams of the architecture and the contributor's list, below src/spatialvla or the client's folder."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    diagrams = "".join(re.findall(r"^```mermaid\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    ways = (ROOT / "CONTRIBUTING.md").read_text().partition("## The ways through it")[2].partition("\n## ")[0]
    rooms = (ROOT, ROOT / "src" / "spatialvla", ROOT / "packages" / "spatialvla-client" / "src")
    for text, least in ((diagrams, 30), (ways, 15)):
        named = set(re.findall(r"[\w/]+\.py\b", text))
        assert len(named) > least
        assert not [name for name in named if not any((room / name).is_file() for room in rooms)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_wrap_and_spell_as_american_english_does(page: Path):
    lines = page.read_text().splitlines()
    # Tables and addresses cannot wrap.
    long = [line for line in lines if len(line) > LONGEST and not line.startswith("|") and "http" not in line]
    assert not long
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    assert not BRITISH.findall(prose)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("name", ["nano", "nano-wrist"])
def test_a_shipped_models_card_is_one_that_hugging_face_reads(name: str):
    """The rates on it are held against results in test_committed_results.py."""
    card = ModelCard.load(ROOT / "src" / "spatialvla" / "assets" / name / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "robotics"
    assert card.data.eval_results
