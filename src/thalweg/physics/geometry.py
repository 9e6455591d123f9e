"""Domains that points are drawn from, inside and on the boundary with outward normals, and parts of the boundary.

The samplers are pure, (key, n) -> n points, as `thalweg.HeldPoints` and `thalweg.FreshPoints` take them, such as
`FreshPoints(plate.sample_interior, 2_000)`. `sample_…` draws independent uniform points; `spread_…` draws points that
are as uniform and keep their distance, so that a mean over the domain needs fewer of them. The cost is fixed when the
domain is made. `contains` and `signed_distance` (negative inside) are written for one point: map them.

Parts of a boundary have names (`rectangle(…).left`, `annulus(…).inner`, `time_cylinder(…).initial`), numbers
(`polygon(…).edges(1, 4)`) or a condition (`domain.part(lambda x: x[0] < 1e-9)`), and are drawn from with `sample` and
`spread`.
"""

from thalweg.physics.balls import Annulus as Annulus
from thalweg.physics.balls import Ball as Ball
from thalweg.physics.balls import Circles as Circles
from thalweg.physics.balls import Disk as Disk
from thalweg.physics.balls import annulus as annulus
from thalweg.physics.balls import ball as ball
from thalweg.physics.balls import disk as disk
from thalweg.physics.boxes import Box as Box
from thalweg.physics.boxes import Faces as Faces
from thalweg.physics.boxes import Interval as Interval
from thalweg.physics.boxes import box as box
from thalweg.physics.boxes import interval as interval
from thalweg.physics.combinations import AbstractCombination as AbstractCombination
from thalweg.physics.combinations import Difference as Difference
from thalweg.physics.combinations import Intersection as Intersection
from thalweg.physics.combinations import Union as Union
from thalweg.physics.combinations import difference as difference
from thalweg.physics.combinations import intersection as intersection
from thalweg.physics.combinations import union as union
from thalweg.physics.cylinders import Moment as Moment
from thalweg.physics.cylinders import Sides as Sides
from thalweg.physics.cylinders import TimeCylinder as TimeCylinder
from thalweg.physics.cylinders import time_cylinder as time_cylinder
from thalweg.physics.domains import AbstractDomain as AbstractDomain
from thalweg.physics.domains import AbstractPart as AbstractPart
from thalweg.physics.domains import BoundaryPoint as BoundaryPoint
from thalweg.physics.domains import Joined as Joined
from thalweg.physics.domains import Matching as Matching
from thalweg.physics.domains import joined as joined
from thalweg.physics.polygon_files import polygon_from_file as polygon_from_file
from thalweg.physics.polygons import Edges as Edges
from thalweg.physics.polygons import Polygon as Polygon
from thalweg.physics.polygons import Rectangle as Rectangle
from thalweg.physics.polygons import polygon as polygon
from thalweg.physics.polygons import rectangle as rectangle
