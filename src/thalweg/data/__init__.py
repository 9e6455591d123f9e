"""Tables: read them from files, split their rows, learn their schema, encode them. Needs no JAX."""

from thalweg.data.columns import group_values as group_values
from thalweg.data.columns import time_values as time_values
from thalweg.data.images import stack_images as stack_images
from thalweg.data.learn import Task as Task
from thalweg.data.learn import TaskChoice as TaskChoice
from thalweg.data.learn import drop_missing_target as drop_missing_target
from thalweg.data.learn import infer_task as infer_task
from thalweg.data.learn import learn_schema as learn_schema
from thalweg.data.schema import CategoricalColumn as CategoricalColumn
from thalweg.data.schema import ClassTarget as ClassTarget
from thalweg.data.schema import EncodedTable as EncodedTable
from thalweg.data.schema import NumberTarget as NumberTarget
from thalweg.data.schema import NumericColumn as NumericColumn
from thalweg.data.schema import TableSchema as TableSchema
from thalweg.data.shipped import shipped_file as shipped_file
from thalweg.data.splits import Split as Split
from thalweg.data.splits import group_split as group_split
from thalweg.data.splits import random_split as random_split
from thalweg.data.splits import time_split as time_split
from thalweg.data.tables import read_table as read_table

__all__ = [
    "CategoricalColumn",
    "ClassTarget",
    "EncodedTable",
    "NumberTarget",
    "NumericColumn",
    "Split",
    "TableSchema",
    "Task",
    "TaskChoice",
    "drop_missing_target",
    "group_split",
    "group_values",
    "infer_task",
    "learn_schema",
    "random_split",
    "read_table",
    "shipped_file",
    "stack_images",
    "time_split",
    "time_values",
]
