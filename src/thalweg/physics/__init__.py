"""Differential operators on one point, and the domains that points come from."""

from thalweg.physics import cavity as cavity
from thalweg.physics import conditions as conditions
from thalweg.physics import geometry as geometry
from thalweg.physics import references as references
from thalweg.physics.operators import Field as Field
from thalweg.physics.operators import curl as curl
from thalweg.physics.operators import derivative as derivative
from thalweg.physics.operators import directional_derivative as directional_derivative
from thalweg.physics.operators import divergence as divergence
from thalweg.physics.operators import gradient as gradient
from thalweg.physics.operators import hessian_vector as hessian_vector
from thalweg.physics.operators import laplacian as laplacian
from thalweg.physics.operators import strain as strain
from thalweg.physics.unknowns import Unknown as Unknown
from thalweg.physics.unknowns import unknowns_of as unknowns_of
