"""Study files: what they mean, and what is refused before anything runs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etastar.errors import ConfigError
from etastar.settings import Settings
from etastar.study.specification import MOST_CELLS, Study


def sizes(study: Study) -> list[tuple[int, int]]:
    return [(cell.settings.width, cell.settings.depth) for cell in study.cells]


def test_a_grid_is_a_product_in_the_order_of_the_file() -> None:
    study = Study.from_text("[grid]\nwidth = [8, 16]\ndepth = [1, 2, 3]")
    assert sizes(study) == [(n, layers) for n in (8, 16) for layers in (1, 2, 3)]
    assert study.varied == ("width", "depth")


def test_the_base_is_shared_and_a_grid_may_say_otherwise() -> None:
    study = Study.from_text('[base]\nloss = "mse"\ndepth = 7\n[grid]\ndepth = [1, 2]\nwidth = 8')
    assert sizes(study) == [(8, 1), (8, 2)]
    assert {cell.settings.loss for cell in study.cells} == {"mse"}


def test_zipped_axes_go_together() -> None:
    study = Study.from_text('[grid]\n"width, depth" = [[8, 1], [64, 2]]\nloss = ["mse"]')
    assert sizes(study) == [(8, 1), (64, 2)]


def test_several_grids_and_cells_are_joined_and_each_specification_counts_once() -> None:
    text = """
    [[grid]]
    width = [8, 16]
    depth = [1]
    [[grid]]
    width = [16, 32]
    depth = [1, 2]
    filter = "width < 32 or depth > 1"
    [[cells]]
    width = 8
    depth = 1
    [[cells]]
    width = 9
    depth = 9
    """
    assert sizes(Study.from_text(text)) == [(8, 1), (16, 1), (16, 2), (32, 2), (9, 9)]


def test_a_default_written_out_is_the_same_cell() -> None:
    text = '[grid]\nwidth = 8\n[[cells]]\nwidth = 8\nthreshold = 0.9\ndataset = "digits"'
    assert len(Study.from_text(text).cells) == 1


def test_the_seeds_of_a_repeated_cell_are_joined() -> None:
    study = Study.from_text(
        "[grid]\nwidth = 8\nseeds = 4\n[[cells]]\nwidth = 8\nseeds = 3\nfirst_seed = 3"
    )
    assert [cell.seeds for cell in study.cells] == [range(6)]


def test_seeds_that_leave_a_gap_are_refused() -> None:
    text = "[grid]\nwidth = 8\nseeds = 4\n[[cells]]\nwidth = 8\nseeds = 2\nfirst_seed = 5"
    with pytest.raises(ConfigError, match=r"cells\[0\].*with seeds 0 to 3; 5 to 6 leave a gap"):
        Study.from_text(text)


def test_a_rate_up_to_no_step_is_refused_where_no_cell_uses_it() -> None:
    with pytest.raises(ConfigError, match="`from_lr` has no effect without `from_step`"):
        Study.from_text("[base]\nfrom_lr = 0.1\n[grid]\nwidth = [8, 16]")
    swept = Study.from_text("[base]\nfrom_lr = 0.1\n[grid]\nfrom_step = [0, 5]")
    assert [cell.fields["from_step"] for cell in swept.cells] == [0, 5]


def test_filters_read_the_signs_of_the_papers() -> None:
    study = Study.from_text(
        'filter = ["width ≥ 8·depth", "depth ≠ 3"]\n'
        '[grid]\nwidth = [8, 16, 32]\ndepth = [1, 2, 3]\nfilter = "width × depth ≤ 32"'
    )
    assert sizes(study) == [(8, 1), (16, 1), (16, 2), (32, 1)]


def test_filters_see_the_defaults_of_the_data_set() -> None:
    text = '[grid]\nloss = ["mse", "cross-entropy"]\nfilter = "epochs > 50 and threshold == 0.9"'
    assert [cell.settings.loss for cell in Study.from_text(text).cells] == ["mse"]


def test_filters_apply_to_single_cells_too() -> None:
    text = 'filter = "width > 8"\n[[cells]]\nwidth = 8\n[[cells]]\nwidth = 9'
    assert [cell.settings.width for cell in Study.from_text(text).cells] == [9]


def test_the_budget_and_sharpness() -> None:
    study = Study.from_text("[budget]\nhours = 0.5\n[sharpness]\nsamples = 7\n[grid]\nwidth = 8")
    assert study.file.budget.hours == 0.5
    assert study.cells[0].sharpness is not None
    assert study.cells[0].sharpness.samples == 7
    on = Study.from_text("sharpness = true\n[grid]\nwidth = 8").cells[0]
    assert on.sharpness is not None
    assert on.sharpness.samples == 1000
    for text in ("[grid]\nwidth = 8", "sharpness = false\n[grid]\nwidth = 8"):
        assert Study.from_text(text).cells[0].sharpness_id is None


def test_the_store_lies_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "some.name.toml"
    path.write_bytes("\ufefftitle = 'κ'\n[grid]\nwidth = 8\n".encode())  # as some editors save it
    study = Study.from_file(path)
    assert study.default_store == tmp_path / "some.name.sqlite"
    assert (study.name, study.file.title) == ("some.name", "κ")


REFUSED = {
    # unknown keys
    "fitler = 'width > 8'": r"unknown key fitler; did you mean 'filter'\?",
    "[base]\nwidht = 8": r"unknown key base\.widht; did you mean 'width'\?",
    "[grid]\nwidth = [8]\ndpeth = [1]": r"unknown key grid\.dpeth; did you mean 'depth'\?",
    "[[grid]]\nwidth = [8]\n[[grid]]\nlos = ['mse']": r"unknown key grid\[1\]\.los; .* 'loss'\?",
    "[grid]\n'width,dpeth' = [[8, 1]]": r"unknown key grid\.width,dpeth; did you mean 'depth'\?",
    "[[cells]]\nwidth = 8\n[[cells]]\nsede = 1": r"unknown key cells\[1\]\.sede; .* 'seeds'\?",
    "[grid]\nwidth = 8\n[sharpness]\nsample = 3": r"unknown key sharpness\.sample; .* 'samples'\?",
    "[grid]\nwidth = 8\n[budget]\nhour = 3": r"unknown key budget\.hour; did you mean 'hours'\?",
    "[base]\nzzzz = 8": r"unknown key base\.zzzz; Known: dataset, data_dir,",
    # nothing to do
    "": r"neither \[grid\] nor \[\[cells\]\]",
    "grid = []": r"neither \[grid\] nor \[\[cells\]\]",
    "[grid]": r"grid is empty; expected at least one list",
    "[grid]\nfilter = 'width > 3'": r"grid is empty",
    "[grid]\nwidth = []\ndepth = [1]": r"grid\.width is an empty list; expected at least one",
    "filter = 'width > 9'\n[[cells]]\nwidth = 8": r"filter leaves none of the \[\[cells\]\]",
    # wrong values
    "[grid]\nwidth = [8, '16']": r"grid\.width\[1\] must be a valid integer, got '16'",
    "[grid]\nwidth = [true]": r"grid\.width\[0\] must be a valid integer, got True",
    "[grid]\nwidth = [8.0]": r"grid\.width\[0\] must be a valid integer, got 8\.0",
    "[grid]\nwidth = [0]": r"grid\.width\[0\] must be greater than or equal to 1, got 0",
    "[grid]\nwidth = [0x10000000000000000]": r"grid\.width\[0\] must be an integer of at most 64",
    f"[grid]\nwidth = [{'9' * 5000}]": r"not valid TOML: Exceeds the limit",
    "[base]\nmomentum = nan\n[grid]\nwidth = 8": r"base\.momentum must be less than 1, got nan",
    "[base]\nresolution = inf\n[grid]\nwidth = 8": r"base\.resolution must be a finite number",
    "[base]\nthreshold = 1.5\n[grid]\nwidth = 8": r"base\.threshold must be above 1/classes",
    "[base]\nbatch_size = 0\n[grid]\nwidth = 8": r"base\.batch_size: batch_size must be at least 1",
    "[base]\nwidth = [8]\n[grid]\ndepth = 1": r"base\.width must be one value; lists belong in",
    "[grid]\nloss = ['hinge']": r"grid\.loss\[0\] must be 'cross-entropy' or 'mse', got 'hinge'",
    "[grid]\ndataset = ['minst']": r"grid\.dataset\[0\]: unknown dataset 'minst'; .* 'mnist'\?",
    "[grid]\nseeds = [20000]": r"grid\.seeds\[0\] must be at most 10000, got 20000",
    "[grid]\nwidth = 8\n[budget]\nhours = 0": r"budget\.hours must be greater than 0, got 0",
    "sharpness = 3\n[grid]\nwidth = 8": r"sharpness must be a table, got 3",
    "grid = 3": r"grid must be a list, got 3",
    "cells = [3]": r"cells\[0\] must be a table, got 3",
    "base = 3\n[grid]\nwidth = 8": r"base must be a table, got 3",
    "[grid]\nwidth = [2026-01-01]": r"grid\.width\[0\] must be a valid integer, got datetime",
    # contradictions
    "[base]\nstart_lr = 20.0\n[grid]\nwidth = 8": r"grid, at width = 8: `start_lr` must be below",
    "[grid]\nwidth = 8\n'width,depth' = [[1, 2]]": r"grid names width twice",
    "[grid]\n'width,width' = [[1, 2]]": r"grid\.width,width names a field twice",
    "[grid]\n'width,depth' = [[1, 2, 3]]": r"grid\.width,depth\[0\] must be a list of 2, got",
    "[grid]\n'width,depth' = [1, 2]": r"grid\.width,depth\[0\] must be a list of 2, got 1",
    # filters
    "filter = 'widht > 3'\n[grid]\nwidth = 8": r"filter\[0\].*unknown field 'widht'; .* 'width'\?",
    "[grid]\nwidth = 8\nfilter = 3": r"grid\.filter must be a condition or a list of conditions",
    "filter = 'width'\n[grid]\nwidth = 8": r"filter\[0\]: 'width' gives 8; expected a comparison",
    "filter = 'max_steps > 3'\n[grid]\nwidth = 8": r"cannot be evaluated.* where max_steps = None",
    "filter = '0 ** -1 > 3'\n[grid]\nwidth = 8": r"cannot be evaluated \([^()]*\)\.$",
    # not TOML
    "[grid\nwidth = 8": r"study\.toml is not valid TOML: .*line 1",
    "x = " + "[" * 2000: r"study\.toml is not valid TOML: maximum recursion",
}


@pytest.mark.parametrize(("text", "says"), REFUSED.items(), ids=lambda text: text[:40])
def test_what_is_wrong_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Study.from_text(text)
    message = str(caught.value)
    assert message.startswith("study file study.toml")
    assert "\n" not in message


def test_contradictory_filters_say_how_many_each_leaves() -> None:
    text = 'filter = "width > 8"\n[grid]\nwidth = [8, 16, 32]\nfilter = ["width < 16", "depth > 1"]'
    with pytest.raises(ConfigError, match="the filters leave none of its 3 cells") as caught:
        Study.from_text(text)
    assert (
        "filter[0] 'width > 8' alone leaves 2; grid.filter[0] 'width < 16' alone leaves 1; "
        "grid.filter[1] 'depth > 1' alone leaves 3."
    ) in str(caught.value)


def test_one_grid_that_its_filters_empty_is_refused_though_another_has_cells() -> None:
    text = '[[grid]]\nwidth = 8\n[[grid]]\nwidth = 16\nfilter = "width < 8"'
    with pytest.raises(ConfigError, match=r"grid\[1\]: the filters leave none of its 1 cells"):
        Study.from_text(text)


def test_a_grid_of_millions_is_taken_for_a_mistake() -> None:
    values = list(range(1, 1001))
    with pytest.raises(ConfigError, match=f"grid has 1000000 cells; expected at most {MOST_CELLS}"):
        Study.from_text(f"[grid]\nwidth = {values}\ndepth = {values}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        Study.from_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Study.from_file(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml cannot be read: it is not UTF-8"):
        Study.from_file(tmp_path / "latin.toml")


WORDS = st.sampled_from(
    [*Settings.model_fields, "filter", "grid", "cells", "base", "width,depth", "widht", "", "κ"]
)
VALUES = st.recursive(
    st.one_of(
        st.integers(-(2**70), 2**70).map(str),
        st.integers(0, 40).map(str),
        st.floats().map(lambda value: repr(value).replace("e+", "e")),
        st.sampled_from(["true", '"mse"', '"digits"', '"full"', '"width ≥ 8*depth"', '"a.b"', "'"]),
        st.text(max_size=6).map(lambda text: f'"{text}"'),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
    max_leaves=6,
)
TABLES = st.sampled_from(
    ["", "[base]", "[grid]", "[[grid]]", "[[cells]]", "[sharpness]", "[budget]", "[base.width]"]
)
LINES = st.tuples(WORDS, VALUES).map(lambda pair: f'"{pair[0]}" = {pair[1]}')
TEXTS = st.lists(st.one_of(LINES, LINES, TABLES), max_size=8).map("\n".join)


def study_or_complaint(text: str) -> Study | str:
    try:
        return Study.from_text(text)
    except ConfigError as error:
        return str(error)


def check_either(text: str) -> None:
    found = study_or_complaint(text)
    if isinstance(found, str):
        assert found.startswith("study file study.toml")
    else:
        tomllib.loads(text)
        assert len({cell.id for cell in found.cells}) == len(found.cells) > 0


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text_gives_a_study_or_a_config_error(text: str) -> None:
    check_either(text)


AXES = {
    "width": ["8", "[8, 16]", "[8, 8]", "[]", "[0]", "['a']"],
    '"width,depth"': ["[[8, 1], [16, 2]]", "[[8]]"],
    "depth": ["[1, 2]", "[3]"],
    "loss": ["['mse', 'cross-entropy']", "['mse', 3]"],
    "seeds": ["[2, 4]", "3"],
    "first_seed": ["[0, 2]", "0"],
    "start_lr": ["0.01", "[1e-3, 20.0]"],
    "filter": ["'width > 8'", "['depth == 1', 'seeds < 3']", "'loss'", "'epochs * loss > 1'"],
    "input_lr_ratio": ["[0.0, -0.0, 1, 1.0]", "-1.0"],
}
GRIDS = st.lists(st.sampled_from(sorted(AXES)), unique=True, max_size=4).flatmap(
    lambda names: st.tuples(
        *(st.sampled_from(AXES[name]).map(f"{name} = {{}}".format) for name in names)
    ).map("\n".join)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(GRIDS, min_size=1, max_size=3))
def test_nearly_right_grids_give_a_study_or_a_config_error(grids: list[str]) -> None:
    check_either("\n".join(f"[[grid]]\n{grid}" for grid in grids))
