// A project with package.json: Markdown in, HTML out.
import { start } from "ignite";
import { marked } from "marked";

start((payload) => marked.parse(new TextDecoder().decode(payload)));
