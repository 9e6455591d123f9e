"""The studies that come with thalweg: one file each, written with the public interface alone, and there to be copied.

`thalweg list` names them; `thalweg.study` finds, runs and resumes them.
"""
