"""RDED: the most recognisable crops of real images, stitched together and labelled softly."""
