import { start } from "ignite";

const count: number = "one";

start((payload) => payloda.length + count);
