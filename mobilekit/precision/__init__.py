"""Number formats, written into the graph: shared by the targets, knows none of them."""
