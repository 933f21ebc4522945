"""Command `psalm`: a thin module for each verb. Options are read before torch is loaded, and checked before a model or data is."""
