"""The page for trying live recognition in a browser: plain files, no build step, nothing from elsewhere."""
