"""Pages and figures of results: plain values in, HTML, SVG and PDF out."""
