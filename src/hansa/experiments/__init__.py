"""Many simulations and what they say together: sweeps over settings and seeds, and recipes with published numbers.

Every finished simulation is a record of its own (`hansa.simulation.record`) in the folder of the experiment, so that
one that was cut off goes on where it was, and each of its numbers can be replayed.
"""

from hansa.experiments.bench import Measured, Verdict, run_recipe
from hansa.experiments.recipes import Recipe, load_recipe, recipe_names
from hansa.experiments.sweep import Sweep, sweep

__all__ = ["Measured", "Recipe", "Sweep", "Verdict", "load_recipe", "recipe_names", "run_recipe", "sweep"]
