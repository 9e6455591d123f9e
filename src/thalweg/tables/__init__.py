"""The spreadsheet product: a table to a trusted model, and that model on new rows."""

from thalweg.tables.audit import AuditRequest as AuditRequest
from thalweg.tables.audit import SplitChoice as SplitChoice
from thalweg.tables.audit import audit_table as audit_table
from thalweg.tables.fit import TableFit as TableFit
from thalweg.tables.fit import fit_table as fit_table
from thalweg.tables.fit import resume_table as resume_table
from thalweg.tables.predict import load_table_model as load_table_model
from thalweg.tables.predict import predict_table as predict_table
from thalweg.tables.request import Request as Request
from thalweg.tables.request import TableSettings as TableSettings
