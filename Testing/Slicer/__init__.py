"""A package, so that its conftest is not taken for the backend tests' own, which these import helpers from."""
