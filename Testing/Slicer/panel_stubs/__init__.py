"""Methods with next to no science, quick enough to drive panel and Logic through real child processes."""
