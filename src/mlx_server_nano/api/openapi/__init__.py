"""The description of the HTTP surface: as an OpenAPI document, and as a page."""
