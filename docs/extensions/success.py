"""Write the tables of docs/measurements/success.md from the results of evaluations in benchmarks/results.

python docs/extensions/success.py [RUN ...]

Each RUN, a folder or file of `spatialvla evaluate`, is first published as benchmarks/results/SUITE_POLICY.json, in
place of what has that name; POLICY is the name of the checkpoint's folder. On the page the table of a file stands
between `<!-- results: SUITE_POLICY -->` and `<!-- end of the results -->`; a new one needs these two lines.

Then `pytest tests/docs/test_committed_results.py` tells what the README, the model cards and the other pages should
say. Results of a shipped policy have to be of the shipped weights; those of earlier ones are kept under another name,
in their file, too: `nano-1`.
"""

import re
import sys
from pathlib import Path

from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import success_table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.merging import load_results

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "measurements" / "success.md"
FOLDER = ROOT / "benchmarks" / "results"
TABLE = re.compile(
    r"(?P<begin><!-- results: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end of the results -->)", re.DOTALL
)


def publish(run: Path) -> None:
    """Puts a finished evaluation among the committed ones, as `spatialvla results RUN --publish FILE` does."""
    for results in load_results([run]):
        if not results.complete:
            raise SystemExit(f"{run} lacks {len(results.missing)} of {len(results.planned)} episodes.")
        results.shareable().save(FOLDER / f"{results.suite}_{results.policy}.json")


def page() -> str:
    """The page with the tables as the results have them."""
    return TABLE.sub(
        lambda found: f"{found['begin']}{table(found['name'])}\n{found['end']}",
        PAGE.read_text(encoding="utf-8"),
    )


def table(name: str) -> str:
    """What `spatialvla results FILE --full` prints of a committed evaluation."""
    return markdown_table(success_table(Results.load(FOLDER / f"{name}.json")))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        publish(Path(argument))
    PAGE.write_text(page(), encoding="utf-8")
