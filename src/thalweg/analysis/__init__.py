"""Questions asked of a place in a landscape; the landscape comes as a function of the parameters."""

from thalweg.analysis.bootstrap import block_length as block_length
from thalweg.analysis.bootstrap import stationary_indices as stationary_indices
from thalweg.analysis.medians import median_interval as median_interval
from thalweg.analysis.redundancy import effective_rank as effective_rank
from thalweg.analysis.redundancy import mean_cosine as mean_cosine
from thalweg.analysis.slices import PlaneSlice as PlaneSlice
from thalweg.analysis.slices import filter_normalized as filter_normalized
from thalweg.analysis.slices import plane_slice as plane_slice
from thalweg.analysis.slices import walked_direction as walked_direction
from thalweg.analysis.slices import without_component as without_component
from thalweg.analysis.values import at_points as at_points
