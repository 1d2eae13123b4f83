"""Recipes: references, overrides, skipping, and what is said when one is wrong."""

from pathlib import Path

import pytest

from fromzero.errors import UserError
from fromzero.recipe import STAGES, RunConfig, _resolve, find_recipe, read_stages, run_recipe
from tests.conftest import Chain

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def write(tmp_path: Path, chain: Chain) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(f"""
output: {tmp_path}/run
stages:
  corpus: {{verb: corpus build, inputs: ["{chain.documents}"], workers: 1}}
  tokenizer: {{verb: tokenizer train, corpus: "@corpus", vocab_size: 300}}
  tokens: {{verb: pack, corpus: "@corpus", tokenizer: "@tokenizer"}}
""")
    return file


def test_stages_run_in_order_and_are_skipped_when_up_to_date(
    tmp_path: Path, chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, chain)
    made = run_recipe(RunConfig(recipe))
    assert [a.kind for a in made.values()] == ["corpus", "tokenizer", "tokens"]
    assert made["tokens"].path == tmp_path / "run" / "tokens"
    capsys.readouterr()
    run_recipe(RunConfig(recipe))
    assert capsys.readouterr().err.count("up to date") == 3
    made = run_recipe(RunConfig(recipe, set={"tokenizer.vocab_size": 310}))
    said = capsys.readouterr().err
    assert said.count("up to date") == 1
    assert said.count("building it anew") == 2
    assert made["tokenizer"].summary["vocab_size"] == 310


def test_parts_of_a_recipe(tmp_path: Path, chain: Chain) -> None:
    recipe = write(tmp_path, chain)
    with pytest.raises(UserError, match="no such folder"):
        run_recipe(RunConfig(recipe, from_stage="tokens"))
    assert list(run_recipe(RunConfig(recipe, until_stage="tokenizer"))) == ["corpus", "tokenizer"]
    assert list(run_recipe(RunConfig(recipe, from_stage="tokens"))) == ["tokens"]
    other = run_recipe(RunConfig(recipe, output=tmp_path / "other", until_stage="corpus"))
    assert other["corpus"].path == tmp_path / "other" / "corpus"
    with pytest.raises(UserError, match="swap --from and --until"):
        run_recipe(RunConfig(recipe, from_stage="tokens", until_stage="corpus"))
    with pytest.raises(UserError, match="no stage 'tokns'; did you mean 'tokens'"):
        run_recipe(RunConfig(recipe, from_stage="tokns"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stagse: {}", "unknown key 'stagse'; did you mean 'stages'"),
        ("output: x", "needs `stages:`"),
        ("output: 5\nstages: {a: {verb: pack}}", "output takes a path, not 5"),
        ("stages: {../a: {verb: pack}}", r"'\.\./a' can't be the name of a stage"),
        ("stages: {a: {verb: [pack]}}", r"stage a has the verb \['pack'\]"),
        ("stages: {a: {verb: corpus biuld}}", "stage a has the verb 'corpus biuld'; did you mean 'corpus build'"),
        ("stages: {a: {corpus: x}}", "stage a has the verb None"),
        ("stages: {a: {verb: pack, corpus: '@b', tokenizer: x}}", "'@b' names no stage before it"),
        ("stages: {a: {verb: pack, corpus: x, tokenizer: x, shards: 1}}", "stage a: unknown key 'shards'"),
        (
            "stages: {a: {verb: pretrain, tokens: x, train: {stepz: 1}}}",
            r"unknown key 'train\.stepz'; did you mean 'steps'",
        ),
        (
            "stages: {a: {verb: pretrain, tokens: x, train: {steps: many}}}",
            r"stage a: --train\.steps takes a whole number",
        ),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        run_recipe(RunConfig(file))
    assert not (tmp_path / "runs").exists()


def test_overrides_name_stages(tmp_path: Path, chain: Chain) -> None:
    recipe = write(tmp_path, chain)
    with pytest.raises(UserError, match="the first part names a stage; did you mean 'tokenizer'"):
        read_stages(recipe, changes={"tokeniser.vocab_size": 1})
    stages = read_stages(recipe)
    assert [stage.name for stage in stages] == ["corpus", "tokenizer", "tokens"]
    with pytest.raises(UserError, match="names no stage before it"):
        read_stages(recipe, skip=("corpus",))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_with_it_are_valid(recipe: Path) -> None:
    stages = read_stages(recipe)
    assert stages
    for stage in stages:
        assert stage.verb in STAGES
        _resolve(stage, str(recipe))


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert find_recipe(Path("quickstart")).name == "quickstart.yaml"
    assert find_recipe(Path("recipes/quickstart.yaml")).exists()
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        find_recipe(Path("quikstart"))
