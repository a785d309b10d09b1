"""The study's pictures: what each shows is a value, made from frames by a pure function; two renderers draw it."""

from collections.abc import Callable, Iterator

from analysis.nets import serving
from analysis.pictures.curves import figure_1, figure_4, figure_6, figure_7
from analysis.pictures.depth import (
    error_against_depth,
    gaps_against_depth,
    generalisation_gap,
    iterations_to_target,
    plan_against_actual,
    shortcut_differences,
    shortcut_options,
)
from analysis.pictures.picture import Picture
from analysis.pictures.starts import constructed_solution, starts_depth, starts_noise
from analysis.runs import Frames
from experiments import starts as starts_experiment
from experiments import starts_grid
from study.spec import HE, check_choice
from study.store.account import RESULTS

Maker = Callable[[Frames, str], Picture]  # of the frames of a study and the name of its profile

_MAKERS: tuple[Maker, ...] = (  # in the order of the page
    figure_1,
    figure_4,
    figure_6,
    figure_7,
    error_against_depth,
    gaps_against_depth,
    generalisation_gap,
    iterations_to_target,
    shortcut_options,
    shortcut_differences,
    plan_against_actual,
)
# Of experiments on request, by name: made where a trial from another start than He's has a result.
_OF_STARTS = {
    constructed_solution: starts_experiment.NAME,
    starts_noise: starts_grid.NAME,
    starts_depth: starts_grid.NAME,
}
MAKERS: dict[str, Maker] = {maker.__name__: maker for maker in (*_MAKERS, *_OF_STARTS)}
FIGURES = tuple(maker.__name__ for maker in _MAKERS[:-1])  # become files under results/<profile>/figures
ON_REQUEST = tuple(maker.__name__ for maker in _OF_STARTS)  # as well, where they are made
# Answer the pointer on the page, where the others are as printed.
CHARTS = (*FIGURES[:6], "constructed_solution", "plan_against_actual")


def made(frames: Frames, profile: str) -> Iterator[Picture]:
    """Every picture of a study."""
    for maker in _MAKERS:
        yield maker(frames, profile)
    for maker, name in _OF_STARTS.items():
        finals = serving(frames.finals, name)
        if (finals["outcome"].isin(RESULTS) & (finals["start"] != HE)).any():
            yield maker(frames, profile)


def named(name: str, frames: Frames, profile: str) -> Picture:
    """The picture of that name. Raises `InputError` where there is none."""
    check_choice("figure", name, list(MAKERS))
    return MAKERS[name](frames, profile)
