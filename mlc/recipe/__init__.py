"""What is asked, as plain data, and its three forms: flags, TOML and Python."""

from mlc.recipe.recipe import (
    LIMITS,
    LIVE,
    Recipe,
    asked_as,
    changed,
    check_sizes,
    input_text,
    live,
    merge,
    parse_inputs,
    read_recipe,
    recipe_toml,
    without,
)

__all__ = [
    "LIMITS",
    "LIVE",
    "Recipe",
    "asked_as",
    "changed",
    "check_sizes",
    "input_text",
    "live",
    "merge",
    "parse_inputs",
    "read_recipe",
    "recipe_toml",
    "without",
]
