"""The colours of pictures, on paper and on a light or a dark page. MLflow's are `study/store/mlflow/decoration.py`."""

import seaborn as sns

# Hue tells the family, to colour-blind readers too; lightness falls with depth, so that grey prints keep the order.
SHADES = {
    family: sns.color_palette(name, as_cmap=True) for family, name in (("plain", "Oranges"), ("residual", "Blues"))
}
SHALLOWEST, DEEPEST = 0.45, 0.95
FAMILY_COLOURS = {"plain": "#d9580d", "residual": "#1f6cb0", "constructed": "#17834a"}  # the last: of plain nets
GREY = "#444444"
Pair = tuple[str, str]  # a colour on a light ground and on a dark one
# Shades of the shallowest net and the deepest, on a light ground and on a dark one: all stand out from it.
ENDS = ((0.65, 1.0), (0.66, 0.2))
FAMILIES: dict[str, Pair] = {
    "plain": (FAMILY_COLOURS["plain"], "#ff9a5c"),
    "residual": (FAMILY_COLOURS["residual"], "#7ab8f5"),
    "constructed": (FAMILY_COLOURS["constructed"], "#6fd39a"),
    "": (GREY, "#c3c8d0"),
}
