"""Tools for the tool-call skills: random schemas with requests for them, and the everyday ones that people try first."""
