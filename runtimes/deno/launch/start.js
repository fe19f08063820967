// Become a command, with the variables that its words name: start.js [NAME=VALUE...] -- WORD...
//
// Deno starts other programs as its children alone; execvp(3) of the C library that it stands on leaves no process
// beside the app, and passes signals and exit code on as they are.
const VARIABLE = /\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?-([^}]*))?\})/g;

function expanded(word) {
  return word.replace(VARIABLE, (_, plain, braced, other) => Deno.env.get(plain ?? braced) || (other ?? ""));
}

if (!Deno.env.get("PORT")) Deno.env.set("PORT", "80");
const at = Deno.args.indexOf("--");
for (const word of Deno.args.slice(0, at)) {
  const [name, ...value] = word.split("=");
  Deno.env.set(name, expanded(value.join("=")));
}
const argv = Deno.args.slice(at + 1).map((word) => new TextEncoder().encode(`${expanded(word)}\0`));
const { symbols: c } = Deno.dlopen("libc.so.6", {
  execvp: { parameters: ["buffer", "buffer"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
  strerror: { parameters: ["i32"], result: "pointer" },
});
const pointers = argv.map((word) => BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(word))));
c.execvp(argv[0], new BigUint64Array([...pointers, 0n]));
const number = new Deno.UnsafePointerView(c.__errno_location()).getInt32();
const why = new Deno.UnsafePointerView(c.strerror(number)).getCString();
console.error(`ignite: cannot start ${new TextDecoder().decode(argv[0].subarray(0, -1))}: ${why}`);
Deno.exit(127);
