"""Tables: read them from files, split their rows, learn their schema, encode them. Needs no JAX."""

from thalweg.data.audit import Audit as Audit
from thalweg.data.audit import Leak as Leak
from thalweg.data.audit import LeakKind as LeakKind
from thalweg.data.audit import audit as audit
from thalweg.data.clusters import Centres as Centres
from thalweg.data.clusters import Clustering as Clustering
from thalweg.data.clusters import Leaders as Leaders
from thalweg.data.clusters import cluster_split as cluster_split
from thalweg.data.clusters import scaffold_split as scaffold_split
from thalweg.data.columns import group_values as group_values
from thalweg.data.columns import time_values as time_values
from thalweg.data.images import stack_images as stack_images
from thalweg.data.lagged import PastFeatures as PastFeatures
from thalweg.data.lagged import Standardizer as Standardizer
from thalweg.data.lagged import past_features as past_features
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
from thalweg.data.speech import Utterance as Utterance
from thalweg.data.speech import log_mel as log_mel
from thalweg.data.speech import synthesize as synthesize
from thalweg.data.splits import Split as Split
from thalweg.data.splits import group_split as group_split
from thalweg.data.splits import random_split as random_split
from thalweg.data.splits import time_split as time_split
from thalweg.data.tables import read_table as read_table
from thalweg.data.walk_forward import Fold as Fold
from thalweg.data.walk_forward import walk_forward as walk_forward

__all__ = [
    "Audit",
    "CategoricalColumn",
    "Centres",
    "ClassTarget",
    "Clustering",
    "EncodedTable",
    "Fold",
    "Leaders",
    "Leak",
    "LeakKind",
    "NumberTarget",
    "NumericColumn",
    "PastFeatures",
    "Split",
    "Standardizer",
    "TableSchema",
    "Task",
    "TaskChoice",
    "Utterance",
    "audit",
    "cluster_split",
    "drop_missing_target",
    "group_split",
    "group_values",
    "infer_task",
    "learn_schema",
    "log_mel",
    "past_features",
    "random_split",
    "read_table",
    "scaffold_split",
    "shipped_file",
    "stack_images",
    "synthesize",
    "time_split",
    "time_values",
    "walk_forward",
]
