"""Work by the million: manifests (`antiphon batch`) and Ray Data."""
