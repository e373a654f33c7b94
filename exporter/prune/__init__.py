"""Copies of the model that hold only the tasks of one structure, without what is dropped."""
