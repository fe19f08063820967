// The project's own files lie in a folder of the source: names what a program declares.
import { start } from "ignite";
import { parse } from "./third_party/acorn/dist/acorn.mjs";

start((payload) => {
  const program = parse(new TextDecoder().decode(payload), { ecmaVersion: 2024, sourceType: "module" });
  return program.body.map((each) => [each.type, each.start, each.end]);
});
