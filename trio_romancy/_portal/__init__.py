"""An app in a trio thread of its own, for programs without trio."""
