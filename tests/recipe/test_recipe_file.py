"""Recipes: what loads, what is refused and in which words, overrides, paths, origins, schema."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from align.errors import UserError
from align.recipe.load import SMALLEST, SOURCES, dump, json_schema, load_recipe, origins, values
from align.recipe.mistakes import OTHER_NAMES, leaves, recipe_schema
from align.recipe.sections import Recipe
from align.records import RECORDS

MINIMAL = "base: some/model\nrun: {name: r}\n"
ROOT = Path(__file__).resolve().parents[2]


def validator() -> Any:
    """The schema in an implementation of JSON Schema that is not ours."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write r.yaml into an empty working directory, so that messages begin with `r.yaml`."""
    monkeypatch.chdir(tmp_path)

    def make(text: str | bytes) -> Path:
        Path("r.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return Path("r.yaml")

    return make


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def paths(entries: Any) -> list[str]:
    return [entry.path for entry in entries]


# What loads


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_of_the_project_loads_and_fits_the_schema(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.data.rankings
    validator().validate(YAML(typ="safe", pure=True).load(path))


def test_data_has_a_source_for_each_kind_of_records() -> None:
    assert tuple(RECORDS) == SOURCES


def test_the_smallest_recipe(write: Any) -> None:
    recipe = load_recipe(write(SMALLEST))
    assert recipe.base.name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert recipe.data.rankings and paths(recipe.data.rankings.train) == [os.path.abspath("rankings.jsonl")]
    assert recipe.run.path == Path("runs/my-first-run")


def test_numbers_are_those_of_yaml_1_2(write: Any) -> None:
    recipe = load_recipe(write(MINIMAL + "sft: {learning_rate: 1}\nppo: {learning_rate: 1e-5, kl_coef: 0}\n"))
    assert (recipe.sft.learning_rate, recipe.ppo.learning_rate, recipe.ppo.kl_coef) == (1.0, 1e-5, 0.0)


def test_a_date_is_text_and_an_empty_section_is_its_defaults(write: Any) -> None:
    recipe = load_recipe(write("base: b\nrun: {name: 2024-01-31}\nsft:\n  # steps: 5\n"))
    assert recipe.run.name == "2024-01-31"
    assert recipe.sft.steps is None


def test_a_byte_order_mark_does_not_hide_the_first_key(write: Any) -> None:
    assert load_recipe(write(b"\xef\xbb\xbf" + MINIMAL.encode())).base.name == "some/model"


def test_an_alias_gives_the_value_it_names(write: Any) -> None:
    recipe = load_recipe(write(MINIMAL + "sft: {steps: &n 7}\nrm: {steps: *n}\n"))
    assert recipe.rm.steps == 7


# What is refused: the file itself


@pytest.mark.parametrize(
    ("text", "start", "says"),
    [
        ("base: b\nrun:\n\tname: r\n", "r.yaml:3:1: ", "a tab"),
        ("base: b\nrun: name: r\n", "r.yaml:2:10: ", "a colon"),
        ('base: "b\nrun: {name: r}\n', "r.yaml:2:15: ", "opened on line 1 is still open"),
        ("base: b\nrun: {name: r\nppo: {}\n", "r.yaml:", "the bracket that was opened on line 2"),
        ("base: b\nrun: {name: @r}\n", "r.yaml:2:13: ", "quotes"),
        ("base: b\n---\nbase: c\n", "r.yaml:2:1: ", "one document"),
        ("base: *b\n", "r.yaml:1:7: ", "undefined alias 'b'"),
        ("base: b\nrun:\n  - a\n c: d\n", "r.yaml:4:2: ", "indentation"),
        ("base: b\nrun: {name: \0}\n", "r.yaml:2:13: ", "not allow"),
        ("base: b\nrun: !!python/object:os.system ls\n", "r.yaml:2:6: ", "tag"),
    ],
)
def test_broken_yaml_is_one_message_with_line_and_column(
    write: Any, text: str, start: str, says: str
) -> None:
    message = refusal(write(text))
    assert message.startswith(start)
    assert says in message.splitlines()[0]


def test_a_broken_line_is_shown_with_a_mark_under_the_column(write: Any) -> None:
    _, line, mark = refusal(write("base: b\nrun: name: r\n")).splitlines()
    assert line[mark.index("^")] == ":"
    assert line.strip() == "run: name: r"


def test_values_are_what_json_can_say(write: Any) -> None:
    rewards = "rewards: [{function: 'm:f'}, {run: this, weight: 2}]"
    path = write(MINIMAL + f"ppo: {{value_init: policy, {rewards}}}\n")
    shown = values(load_recipe(path))["ppo.rewards"]
    assert json.loads(json.dumps(shown)) == [{"function": "m:f"}, {"run": "this", "weight": 2.0}]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_recipe_shows_the_smallest_one(write: Any, text: str) -> None:
    message = refusal(write(text))
    assert message.startswith("r.yaml: the recipe is empty")
    assert "name: my-first-run" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "hello\n", "base:b\n", "5\n"])
def test_a_recipe_is_a_mapping(write: Any, text: str) -> None:
    assert refusal(write(text)).startswith("r.yaml: a recipe is made of `key: value` lines")


def test_not_utf_8_is_told_with_its_line(write: Any) -> None:
    assert refusal(write(b"base: b\nrun: {name: caf\xe9}\n")).startswith("r.yaml:2: not UTF-8")


def test_a_missing_file_names_the_one_that_was_meant(write: Any) -> None:
    write(MINIMAL).rename("quickstart.yaml")
    assert refusal(Path("quikstart.yaml")) == "quikstart.yaml: no such file; did you mean quickstart.yaml?"
    assert "holds quickstart.yaml" in refusal(Path("elsewhere.yaml"))
    assert refusal(Path("no/where.yaml")) == "no/where.yaml: no such file"


def test_a_folder_is_no_recipe(write: Any) -> None:
    write(MINIMAL)
    assert refusal(Path(".")).startswith(".: a folder; name a recipe file")


def test_a_key_given_twice_names_both_lines(write: Any) -> None:
    text = "base: b\nrun: {name: r}\nppo:\n  kl_coef: 0.1\n  gamma: 1\n  kl_coef: 0.2\nbase: c\n"
    first, *rest = refusal(write(text)).splitlines()
    assert first == "2 mistakes in the recipe"
    assert rest == [
        "r.yaml:6: ppo.kl_coef: given twice, on line 4 and on line 6; keep one",
        "r.yaml:7: base: given twice, on line 1 and on line 7; keep one",
    ]


def test_an_alias_that_holds_itself_ends(write: Any) -> None:
    assert "r.yaml:3: lora" in refusal(write(MINIMAL + "lora: &x {targets: *x}\n"))


# What is refused: keys and values


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ppo: {kl_coeff: 1}", "ppo.kl_coeff: unknown key; did you mean kl_coef?"),
        ("sft: {kl_coef: 1}", "sft.kl_coef: unknown key; did you mean ppo.kl_coef?"),
        ("kl_coef: 1", "kl_coef: unknown key; did you mean ppo.kl_coef?"),
        ("ppo: {critic_warmup: 2}", "ppo.critic_warmup: this key is now called ppo.value_warmup"),
        (
            "ppo: {value_trunk: own}",
            "ppo.value_trunk: this key is now called ppo.value_model; write `value_model: separate`",
        ),
        ("ppo: {value_trunk: 3}", "ppo.value_trunk: this key is now called ppo.value_model"),
        ("sft: {critic_warmup: 2}", "sft.critic_warmup: unknown key"),
        ("pppo: {}", "pppo: unknown key; did you mean ppo?"),
        ("lora: {r: 8}", "lora.r: unknown key; here it is called rank"),
        ("sft: {lr: 1}", "sft.lr: unknown key; here it is called learning_rate"),
        ("model_name_or_path: x", "model_name_or_path: unknown key; here it is called base.name"),
        (
            "lora: {zzz: 8}",
            "lora.zzz: unknown key; lora has rank, alpha, use_rslora, use_dora, dropout, targets, "
            "modules_to_save, layers",
        ),
        ("data: {rankings: {path: a, train: b}}", "data.rankings.path: unknown key; it belongs to an entry"),
        ("data: {promts: a}", "data.promts: unknown key; did you mean prompts?"),
        ("data: {prompts: {train: a, trian: a}}", "data.prompts.trian: unknown key; did you mean train?"),
        ("learning_rate: 1", "unknown key; did you mean sft.learning_rate, rm.learning_rate, ppo.learning"),
        ("ppo: {batch_size: 8}", "here it is called rollout_batch_size or minibatch_size"),
        ("sft: {steps: 0}", "sft.steps: expected a whole number above 0 or null; got 0"),
        ("sft: {steps: 1e3}", "got 1000.0; write 1000"),
        ("sft: {steps: 1.5}", "sft.steps: expected a whole number above 0 or null; got 1.5"),
        ('sft: {learning_rate: "1e-4"}', 'above 0; got the text "1e-4"; write it without quotes'),
        ("sft: {learning_rate: .nan}", "sft.learning_rate: expected a number above 0; got nan"),
        ("sft: {learning_rate: .inf}", "sft.learning_rate: expected a number above 0; got inf"),
        ("sft: {learning_rate: true}", "sft.learning_rate: expected a number above 0; got true"),
        ("sft: {learning_rate: null}", "sft.learning_rate: expected a number above 0; got nothing (null)"),
        ("ppo: {clip_range: '0,2'}", 'got the text "0,2"; write 0.2'),
        ("ppo: {gamma: 2}", "ppo.gamma: expected a number from 0 to 1; got 2"),
        ("sft: {packing: yes}", 'sft.packing: expected true or false; got the text "yes"; write true'),
        ("sft: {packing: off}", 'got the text "off"; write false'),
        ("sft: {packing: 1}", "sft.packing: expected true or false; got 1"),
        ("data: {template: chatt}", 'one of chat, plain; got the text "chatt"; did you mean chat?'),
        ("ppo: {advantage: reinforce}", 'got the text "reinforce"; did you mean reinforce++?'),
        ("ppo: {advantage: RLOO}", 'got the text "RLOO"; did you mean rloo?'),
        (
            "lora: {targets: q_proj}",
            "lora.targets: expected a list of texts, all-linear or a pattern of whole paths; got the text "
            '"q_proj"; write [q_proj]',
        ),
        ("lora: {targets: '.*q_proj('}", "lora.targets: '.*q_proj(' is no regular expression: missing )"),
        ("lora: {targets: []}", "lora.targets: expected a list with something in it"),
        ("lora: {modules_to_save: lm_head}", 'null; got the text "lm_head"; write [lm_head]'),
        ("lora: {modules_to_save: []}", "expected a list with something in it; got an empty list"),
        ("lora: {dora: true}", "lora.dora: unknown key; here it is called use_dora"),
        ("lora: {targets: [q_proj, 3]}", "lora.targets[1]: expected text; got 3; put it in quotes"),
        ("sft: 5", "sft: expected a section (indented `key: value` lines); got 5"),
        ("data: {prompts: 5}", "data.prompts: expected a path, a section (indented"),
        (
            "data: {prompts: {train: []}}",
            "data.prompts.train: expected a list with something in it; got an empty list",
        ),
        (
            "data: {prompts: {train: a, held_out: 1}}",
            "data.prompts.held_out: expected a number of at least 0",
        ),
        ("data: {prompts: {held_out: 0.1}}", "data.prompts.train: missing; give a path or a list of them"),
        ("data: {prompts: {train: 5}}", "data.prompts.train: expected a path or a list of them; got 5"),
        ("data: {prompts: [a, 5]}", "data.prompts.train[1]: expected a path, or a section with one"),
        (
            "data: {prompts: {train: {path: a, wieght: 2}}}",
            "data.prompts.train[0].wieght: unknown key; did you mean weight?",
        ),
        (
            "data: {prompts: {train: [a, {path: b, config: c}]}}",
            "data.prompts.train[1].config: unknown key; here it is called subset",
        ),
        (
            "data: {prompts: {train: a, held_out: {path: b, weight: 0}}}",
            "data.prompts.held_out[0].weight: expected a number above 0 and at most 1000; got 0",
        ),
        (
            "data: {prompts: {train: a, held_out: {path: b, revison: x}}}",
            "data.prompts.held_out[0].revison: unknown key; did you mean revision?",
        ),
        ("data: {prompts: {train: a, held_out: {path: b, weight: 2}}}", "held-out records are read once"),
        (
            "data: {prompts: {train: {split: b}}}",
            "data.prompts.train[0].path: missing; name a file, a folder",
        ),
        (
            "data: {prompts: {train: {path: ''}}}",
            "data.prompts.train[0].path: expected text that is not empty",
        ),
        (
            "data: {prompts: {train: {path: a, columns: [b]}}}",
            "data.prompts.train[0].columns: expected a section (indented `key: value` lines) or null; got a ",
        ),
        (
            "data: {prompts: {train: {path: a, columns: {prompt: 3}}}}",
            "data.prompts.train[0].columns.prompt: expected text, a list of texts or null; got 3",
        ),
        (
            "data: {prompts: {train: {path: a, format: x, columns: {prompt: b}}}}",
            "data.prompts.train[0]: format and columns both say how to read a row; keep one",
        ),
        (
            "data: {rankings: {train: a, on_bad_record: skipp}}",
            'one of fail, skip; got the text "skipp"; did you mean skip?',
        ),
        ("ppo: {min_response_tokens: 256}", "must be less than max_response_tokens (256)"),
        ("ppo: {engine: vllm}", "set engine_url to where it listens"),
        ("ppo: {engine: vllm, engine_url: localhost:8000}", "such as http://localhost:8000"),
        (
            "ppo: {engine: vllm, engine_url: http://localhost:8000, temperature: 2.5}",
            "temperature is 2.5, and vLLM samples at 2 at most",
        ),
        ("ppo: {engine_url: http://localhost:8000}", "engine_url is for engine vllm, and the engine is hf"),
        ("ppo: {engine_sleep: true}", "engine_sleep is for engine vllm, and the engine is hf"),
        ("ppo: {engine: vllm, engine_url: [http://a:1, b:1]}", "set engine_url to where it listens"),
        (
            "ppo: {engine: vllm, engine_url: [http://a:1, http://a:1/v1/]}",
            "engine_url names http://a:1 twice",
        ),
        ("ppo: {minibatch_size: 48}", "rollout_batch_size (128) must be a multiple of minibatch_size (48)"),
    ],
)
def test_a_mistake_is_one_line_with_place_key_and_remedy(write: Any, line: str, message: str) -> None:
    told = refusal(write(MINIMAL + line + "\n"))
    assert told.startswith("r.yaml:3: ")
    assert message in told
    assert "\n" not in told
    for jargon in ("Input should", "pydantic", "validation", "str_type", "Value error", "dictionary"):
        assert jargon not in told


def test_missing_sections_say_what_to_write(write: Any) -> None:
    told = refusal(write("lora: {rank: 8}\n"))
    assert "r.yaml: base: missing; name the model" in told
    assert "r.yaml: run: missing; name the run" in told


@pytest.mark.parametrize("name", ["my run", "../up", "", "-x", "a/b", "a\n"])
def test_a_run_name_cannot_leave_its_folder(write: Any, name: str) -> None:
    told = refusal(write(f"base: b\nrun: {{name: {json.dumps(name)}}}\n"))
    assert "r.yaml:2: run.name: expected a name of letters, digits" in told


def test_all_mistakes_are_told_at_once_in_the_order_of_the_lines(write: Any) -> None:
    text = "ppo:\n  gamma: 3\n  lam: 1\nbase: 5\nrun: {name: 7}\nsft: {steps: x}\n"
    first, *rest = refusal(write(text), "rm.tie=ignore").splitlines()
    assert first == "6 mistakes in the recipe"
    assert [line.split(": ")[0] for line in rest] == [
        "r.yaml:2",
        "r.yaml:3",
        "r.yaml:4",
        "r.yaml:5",
        "r.yaml:6",
        "--set rm.tie=ignore",
    ]


def test_other_trainers_names_lead_to_keys_that_exist() -> None:
    paths = {".".join(map(str, path)) for path in leaves()} | {str(path[-1]) for path in leaves()}
    assert set(OTHER_NAMES.values()) <= paths
    # A judge's model has the name that its protocol gives it; anywhere else `model` is meant for base.name.
    ours = [path for path in leaves() if "judge" not in path[:-1]]
    assert not set(OTHER_NAMES) & {str(path[-1]) for path in ours}


# --set


def test_overrides_are_yaml_and_the_last_one_counts(write: Any) -> None:
    path = write(MINIMAL + "ppo: {kl_coef: 0.3}\n")
    recipe = load_recipe(
        path,
        [
            "ppo.kl_coef=0.1",
            "ppo.kl_coef=1e-2",
            "lora.targets=[q_proj, v_proj]",
            "sft.packing=true",
            "base.dtype=float32",
            "data.prompts=p.jsonl",
            "data.prompts.held_out=0",
            "rm={epochs: 3}",
        ],
    )
    assert recipe.ppo.kl_coef == 0.01
    assert recipe.lora.targets == ["q_proj", "v_proj"]
    assert recipe.sft.packing is True
    assert (recipe.base.name, recipe.base.dtype) == ("some/model", "float32")
    assert recipe.data.prompts and paths(recipe.data.prompts.train) == [os.path.abspath("p.jsonl")]
    assert recipe.data.prompts.held_out == 0.0
    assert recipe.rm.epochs == 3


def test_an_override_mends_what_the_file_has_wrong(write: Any) -> None:
    assert load_recipe(write(MINIMAL + "ppo: {kl_coef: x}\n"), ["ppo.kl_coef=0.1"]).ppo.kl_coef == 0.1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ppo.kl_coeff=1", "ppo.kl_coeff: unknown key; did you mean kl_coef?"),
        ("ppo.value_trunk=policy", "ppo.value_model; write `value_model: shared`"),
        ("kl_coef=1", "kl_coef: unknown key; did you mean ppo.kl_coef?"),
        ("pppo.kl_coef=1", "pppo: unknown key; did you mean ppo?"),
        ("ppo.kl_coef=x", 'ppo.kl_coef: expected a number of at least 0; got the text "x"'),
        ("ppo.kl_coef", "write it as key=value, for example --set ppo.kl_coef=0.1"),
        ("=1", "write it as key=value"),
        ("ppo..kl_coef=1", "write it as key=value"),
        ("ppo.kl_coef=", "no value after '='; write null to unset a value"),
        ("lora.targets=[a", "a quote or bracket that was opened on line 1 is still open"),
        ("ppo.gamma.x=1", "ppo.gamma has no keys beneath it; set it whole"),
        ("data.prompts.train.0=x", "data.prompts.train has no keys beneath it; set it whole"),
        ("ppo.minibatch_size=48", "must be a multiple of minibatch_size (48)"),
        ("ppo={gamma: 1, gamma: 2}", "given twice"),
    ],
)
def test_a_wrong_override_is_located_as_it_was_typed(write: Any, override: str, says: str) -> None:
    told = refusal(write(MINIMAL + "ppo: {gamma: 1.0}\ndata: {prompts: [p.jsonl]}\n"), override)
    assert told.startswith(f"--set {override}: ")
    assert says in told


# Paths


def test_paths_belong_to_the_recipe_and_runs_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes/local").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("recipes/r.yaml").write_text(
        "base: local\n"
        "run: {name: r, folder: out}\n"
        "data:\n"
        "  demonstrations: ../d.jsonl\n"
        "  rankings: {train: [~/a.jsonl, /b.jsonl], held_out: h.jsonl}\n"
        "rm: {sft: runs/other}\n"
        "ppo: {rm: ~/runs/third}\n"
    )
    recipe = load_recipe(Path("recipes/r.yaml"))
    assert recipe.base.name == str(tmp_path / "recipes/local")
    assert recipe.run.path == Path("out/r")
    assert recipe.data.demonstrations and paths(recipe.data.demonstrations.train) == [
        str(tmp_path / "d.jsonl")
    ]
    assert recipe.data.rankings
    assert paths(recipe.data.rankings.train) == [str(tmp_path / "home/a.jsonl"), "/b.jsonl"]
    assert paths(recipe.data.rankings.held_out) == [str(tmp_path / "recipes/h.jsonl")]
    assert (recipe.rm.sft, recipe.ppo.rm) == ("runs/other", str(tmp_path / "home/runs/third"))


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("org/model", "org/model"),
        ("./model", "{recipes}/model"),
        ("../model", "{up}/model"),
        ("/models/x", "/models/x"),
    ],
)
def test_a_base_that_is_no_folder_beside_the_recipe_is_a_hub_id(write: Any, name: str, resolved: str) -> None:
    here = Path.cwd()
    assert load_recipe(write(f"base: {name}\nrun: {{name: r}}\n")).base.name == resolved.format(
        recipes=here, up=here.parent
    )


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("owner/name", "owner/name"),
        ("here/data", "{recipes}/here/data"),
        ("./owner/name", "{recipes}/owner/name"),
        ("owner/name.jsonl", "{recipes}/owner/name.jsonl"),
        ("owner/*.jsonl.gz", "{recipes}/owner/*.jsonl.gz"),
        ("a/b/c", "{recipes}/a/b/c"),
        ("../up/x", "{up}/up/x"),
    ],
)
def test_data_that_is_not_beside_the_recipe_may_be_on_the_hub(write: Any, path: str, resolved: str) -> None:
    here = Path.cwd()
    (here / "here/data").mkdir(parents=True)
    recipe = load_recipe(
        write(MINIMAL + f"data: {{prompts: {{train: [{{path: '{path}', weight: 2}}, x]}}}}\n")
    )
    assert recipe.data.prompts
    assert paths(recipe.data.prompts.train) == [
        resolved.format(recipes=here, up=here.parent),
        str(here / "x"),
    ]


# Origins


def test_origins_name_line_override_or_default(write: Any) -> None:
    path = write("base: b\nrun:\n  name: r\ndata:\n  prompts: p.jsonl\nsft: {steps: 3}\nppo: {kl_coef: 1}\n")
    overrides = ["sft.steps=4", "ppo={gamma: 0.9}"]
    found = origins(path, overrides)
    assert found["base.name"] == "r.yaml:1"
    assert found["base.dtype"] == "default"
    assert found["run.name"] == "r.yaml:3"
    assert found["data.prompts.train"] == "r.yaml:5"
    assert found["data.prompts.held_out"] == "default"
    assert found["data.rankings"] == "default"
    assert found["sft.steps"] == found["ppo.gamma"] == "--set"
    assert found["ppo.kl_coef"] == "default"
    assert list(found) == list(values(load_recipe(path, overrides)))


def test_entries_are_shown_and_written_as_short_as_they_can_be(write: Any) -> None:
    recipe = load_recipe(
        write(MINIMAL + "data: {prompts: [a.jsonl, {path: o/n, split: train, weight: 1}]}\n")
    )
    short = [str(Path.cwd() / "a.jsonl"), {"path": "o/n", "split": "train"}]
    assert values(recipe)["data.prompts.train"] == short
    assert YAML(typ="safe", pure=True).load(dump(recipe))["data"]["prompts"]["train"] == short


# Writing back


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Raw values for a recipe, drawn from the bounds that its schema states."""
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    path = text.map(lambda t: os.path.abspath("/data/" + t.replace("\0", "0")))
    special = {
        ("base", "name"): st.sampled_from(
            ["b", "1", "null", "~x y", "a: b", "# c", "é/ü", "2024-01-01", "/m/n"]
        ),
        ("run", "name"): st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,8}\Z"),
        ("run", "folder"): path,
        ("lora", "targets"): st.sampled_from(["all-linear", r".*\.q_proj", ["q_proj", "1"]]),
        ("labeling", "database"): st.none() | path | st.just("postgresql://host/name"),
        ("labeling", "guideline"): st.none() | path,
        **{(stage, parent): st.none() | path for stage in ("rm", "ppo") for parent in ("sft", "rm")},
        ("labeling", "checks"): st.none() | st.just([{"function": "judge:f", "name": "f", "timeout": 2.5}]),
        ("evaluate", "measures"): st.none() | st.just([{"function": "judge:f", "name": "f"}]),
        ("evaluate", "prompts"): st.none() | path,
        ("evaluate", "policies"): st.none()
        | st.lists(text.filter(lambda t: "@" not in t), min_size=1, max_size=2),
        ("evaluate", "judge"): st.none()
        | path.map(lambda file: {"url": "http://host:1/v1", "model": "m: 1", "template": file}),
        ("evaluate", "lm_eval"): st.none() | path.map(lambda folder: {"tasks": ["a", "1"], "folder": folder}),
        ("evaluate", "reward_bench"): st.none() | st.lists(path, min_size=1, max_size=2),
        ("evaluate", "safety"): st.none()
        | path.map(
            lambda file: {
                "files": [file],
                "suffixes": file,
                "count": None,
                "judge": {"url": "http://host:1/v1", "model": "m: 1", "template": file},
            }
        ),
        ("ppo", "rewards"): st.none()
        | st.sampled_from(["this", "/data/x"]).map(
            lambda run: [{"run": run, "weight": -0.5}, {"function": "judge:f", "name": "f"}]
        ),
    }

    def entry() -> st.SearchStrategy[Any]:
        fields = recipe_schema()["$defs"]["Entry"]["properties"]
        optional = {k: value(fields[k]) for k in ("weight", "split", "subset", "revision")}
        ways = [{**optional, "format": value(fields["format"])}, {**optional, "columns": columns()}]
        hub_id = st.just("owner/name")
        return path | st.one_of(
            [st.fixed_dictionaries({"path": path | hub_id}, optional=way) for way in ways]
        )

    def columns() -> st.SearchStrategy[dict[str, Any]]:
        word = text | st.booleans() | st.integers() | st.just(0.5)
        better = st.sampled_from(["verdict", "the winner", "<x>"])  # "bad" would be refused
        ways = [
            {"response": text},
            {"chosen": text, "rejected": st.lists(text, min_size=1, max_size=2), "labeler": text},
            {"responses": text, "ranks": text, "best": st.sampled_from([0, 1, "1st"])},
            {"responses": text, "scores": text, "lower_is_better": st.booleans(), "group_by": text},
            {"responses": text, "order": text, "places_from": st.sampled_from([0, 1])},
            {"responses": text, "verdict": st.fixed_dictionaries({"column": text, "a": word}) | better},
            {
                "responses": text,
                "verdict": st.fixed_dictionaries(
                    {"column": text, "low": st.just("b"), "middle": st.just(0.0)}
                ),
                "messages": st.fixed_dictionaries({"role": text, "assistant": text}),
            },
        ]
        return st.one_of([st.fixed_dictionaries({"prompt": text, **way}) for way in ways])

    def value(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            return section((), recipe_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in schema:
            return st.one_of([value(option) for option in schema["anyOf"]])
        if "enum" in schema or "const" in schema:
            return st.sampled_from(schema.get("enum") or [schema["const"]])
        if schema["type"] == "integer":
            lowest = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return st.integers(lowest, schema.get("maximum", 10**20))
        if schema["type"] == "number":
            return st.floats(
                schema.get("minimum", schema.get("exclusiveMinimum", 0)),
                schema.get("maximum", schema.get("exclusiveMaximum")),
                exclude_min="exclusiveMinimum" in schema,
                exclude_max="exclusiveMaximum" in schema,
                allow_infinity=False,
                allow_nan=False,
            )
        items = schema.get("items", {})
        simple: dict[str, st.SearchStrategy[Any]] = {
            "boolean": st.booleans(),
            "null": st.none(),
            "string": st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else text,
            "array": st.lists(
                value(items) if "enum" in items or items.get("type") == "integer" else text,
                min_size=1,
                max_size=3,
                unique="enum" in items or items.get("type") == "integer",  # methods and seeds are named once
            ),
            "object": st.dictionaries(text, text | st.lists(text, min_size=1, max_size=2), max_size=2),
        }
        return simple[schema["type"]]

    def section(keys: tuple[str, ...], schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        if schema["title"] == "Source":
            train = st.lists(entry(), min_size=1, max_size=3)
            held_out = st.lists(path, min_size=1, max_size=3) | st.floats(0, 0.99)
            others = {k: value(schema["properties"][k]) for k in ("split_key", "on_bad_record")}
            return st.fixed_dictionaries({"train": train}, optional={"held_out": held_out, **others})
        properties = schema["properties"].items()
        fields = {k: special[(*keys, k)] if (*keys, k) in special else value(v) for k, v in properties}
        needed = schema.get("required", [])
        return st.fixed_dictionaries(
            {k: s for k, s in fields.items() if k in needed},
            optional={k: s for k, s in fields.items() if k not in needed},
        )

    raw: dict[str, Any] = {}
    for name, option in recipe_schema()["properties"].items():
        raw[name] = draw(section((name,), recipe_schema()["$defs"][option["$ref"].rsplit("/", 1)[1]]))
    together = ("rollout_batch_size", "responses_per_prompt", "min_response_tokens", "kl_target", "keep")
    for key in (*together, "advantage", "value_init", "value_model", "engine", "engine_url", "engine_sleep"):
        raw["ppo"].pop(key, None)  # they go with others, which the schema cannot say
    for key in ("member_share", "members", "length_debias", "orthogonal_coef", "length_coef"):
        raw["rm"].pop(key, None)  # they go with each other
    for key in ("reward_shape", "reference_responses", "reward_reduce", "refusal_limit"):
        raw["ppo"].pop(key, None)
    if raw["data"].get("template") == "plain":
        for key in ("template_name", "chat_template_kwargs"):
            raw["data"].pop(key, None)
    for key in ("use_dora", "modules_to_save"):
        if raw["lora"].get(key):
            raw["base"].pop("quantize", None)
    if raw["lora"].get("modules_to_save"):
        raw["sft"].pop("start", None)
    if raw["evaluate"].get("best_of") == 1:
        raw["evaluate"]["best_of"] = 2  # one answer is no choice
    raw["ppo"]["minibatch_size"] = draw(st.sampled_from([1, 2, 64, 128]))
    return raw


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=recipes())
def test_what_is_dumped_loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]
) -> None:
    recipe = Recipe.model_validate(raw)
    path = tmp_path_factory.mktemp("dump") / "recipe.yaml"
    path.write_text(dump(recipe), encoding="utf-8", newline="")
    assert load_recipe(path) == recipe


def test_a_long_path_stays_on_one_line() -> None:
    name = "/data/" + "with spaces " * 20 + "x"
    assert f"name: {name}\n" in dump(Recipe.model_validate({"base": name, "run": {"name": "r"}}))


def test_a_dump_of_a_loaded_recipe_means_the_same_elsewhere(write: Any, tmp_path: Path) -> None:
    recipe = load_recipe(write(SMALLEST), ["ppo.learning_rate=3e-7", "base=./here"])
    copy = tmp_path / "runs/x/recipe.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text(dump(recipe))
    assert load_recipe(copy) == recipe


def test_a_file_that_a_run_of_an_earlier_version_wrote_is_read(write: Any) -> None:
    now = load_recipe(
        write(MINIMAL), ["ppo.value_init=policy", "ppo.value_model=shared", "ppo.value_warmup=3"]
    )
    text = dump(now).replace("value_model: shared", "value_trunk: policy")
    path = write(text.replace("value_warmup", "critic_warmup"))
    assert load_recipe(path, of_run=True) == now
    assert "ppo.value_warmup" in refusal(path)


# JSON Schema

EXAMPLES = [
    ("base: b", True),
    ("base: {name: b, dtype: float32}", True),
    ("base: [b]", False),
    ("base: {}", False),
    ("data: {prompts: p.jsonl}", True),
    ("data: {prompts: [p.jsonl, q.jsonl]}", True),
    ("data: {prompts: {train: p.jsonl, held_out: q.jsonl}}", True),
    ("data: {prompts: {train: [p.jsonl], held_out: 0.1}}", True),
    ("data: {prompts: {train: [p.jsonl], held_out: 1}}", False),
    ("data: {prompts: {path: p.jsonl}}", False),
    ("data: {prompts: [p.jsonl, {path: q.csv, weight: 2, columns: {prompt: a, responses: [b, c]}}]}", True),
    ("data: {prompts: {train: {path: q.csv}, held_out: {path: a/b, split: test}, split_key: id}}", True),
    ("data: {prompts: {train: [{weight: 2}]}}", False),
    ("data: {prompts: {train: []}}", False),
    ("data: {prompts: {train: ['']}}", False),
    ("data: {prompts: null}", True),
    ("data: {prompts: 5}", False),
    ("sft:", True),
    ("sft: {steps: 5, learning_rate: 1}", True),
    ("sft: {stepz: 5}", False),
    ("ppo: {gamma: 1.5}", False),
    ("ppo: {value_init: policy, rewards: {function: 'm:f'}}", True),
    ("ppo: {value_init: policy, rewards: [{function: 'm:f'}]}", True),
    ("ppo: {rewards: []}", False),
    ("ppo: {rewards: m:f}", False),
    ("data: {rankings: {labels: l.db, agreement: 0.9}}", True),
    ("lora: {targets: all-linear}", True),
    ("lora: {targets: some}", False),
    ("extra: 1", False),
]


@pytest.mark.parametrize(("text", "good"), EXAMPLES)
def test_the_schema_accepts_what_loading_accepts(write: Any, text: str, good: bool) -> None:
    whole = f"run: {{name: r}}\n{text}\n" if text.startswith("base") else f"{MINIMAL}{text}\n"
    assert validator().is_valid(YAML(typ="safe", pure=True).load(whole)) is good
    if good:
        load_recipe(write(whole))
    else:
        refusal(write(whole))


def test_every_field_is_described() -> None:
    sections = [s for s in recipe_schema()["$defs"].values() if s["title"] != "Data"]
    missing = [
        f"{s['title']}.{key}"
        for s in sections
        for key, v in s["properties"].items()
        if not v.get("description")
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
            "more than 100000 values",
        ),
        ("a: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
    ],
)
def test_a_recipe_that_grows_without_end_is_refused_at_once(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        load_recipe(tmp_path / "recipe.yaml")
