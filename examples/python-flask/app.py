"""A WSGI application, served by the server that its manifest brings."""

from flask import Flask, request

app = Flask(__name__)


@app.post("/")
def upper() -> str:
    return request.get_data(as_text=True).upper()


if __name__ == "__main__":
    app.run(debug=True)
