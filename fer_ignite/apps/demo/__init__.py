"""Local web page that predicts the expressions in uploaded pictures."""
