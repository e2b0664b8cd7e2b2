"""The embedded default: a rendered catalog and the nano checkpoint that stands in for a VLM."""
