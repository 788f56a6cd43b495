"""Recipes: the document and its reader."""

from longhaul_client.recipes.document import Recipe
from longhaul_client.recipes.reader import dump_recipe, parse_recipe, read_recipe

__all__ = ["Recipe", "dump_recipe", "parse_recipe", "read_recipe"]
