"""Tables, figures and the page that an experiment's metrics become."""
