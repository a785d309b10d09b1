"""The study's pictures: what each shows is a value, made from frames by a pure function; two renderers draw it."""

from collections.abc import Callable, Iterator

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
from analysis.runs import Frames
from study.spec import check_choice

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
MAKERS = {maker.__name__: maker for maker in _MAKERS}
FIGURES = tuple(MAKERS)[:-1]  # become files under results/<profile>/figures
CHARTS = (*FIGURES[:6], "plan_against_actual")  # answer the pointer on the page, where the others are as printed


def made(frames: Frames, profile: str) -> Iterator[Picture]:
    """Every picture of a study."""
    for maker in _MAKERS:
        yield maker(frames, profile)


def named(name: str, frames: Frames, profile: str) -> Picture:
    """The picture of that name. Raises `InputError` where there is none."""
    check_choice("figure", name, list(MAKERS))
    return MAKERS[name](frames, profile)
