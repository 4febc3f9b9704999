"""A look at a result: the slide as deep zoom, nuclei on top, in a page that is served to this machine alone."""
