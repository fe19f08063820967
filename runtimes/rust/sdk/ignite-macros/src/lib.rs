//! `#[ignite::main]`: a handler becomes a program. No dependency, so that it costs a build nothing.

use proc_macro::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// Makes the program of a handler: `[async] fn name(req: ignite::Request, ctx: ignite::Context) -> Result<T, E>`.
///
/// It stands at the root of `main.rs` or `lib.rs`, once.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if let Some(first) = arguments.into_iter().next() {
        return refuse(first, "#[ignite::main] takes no arguments");
    }
    let handler = match read(item.clone()) {
        Ok(handler) => handler,
        Err((at, message)) => return [item, refuse(at, message)].into_iter().collect(),
    };
    let kind = if handler.is_async { "asynchronous" } else { "synchronous" };
    let name = handler.name.as_str();
    let run = format!("::ignite::__private::{kind}({name})");
    if name == "main" {
        // The handler lies inside of the program's own `main`, with the places of its tokens.
        let call: TokenStream = run.parse().expect("a call parses");
        let body = TokenTree::Group(Group::new(Delimiter::Brace, item.into_iter().chain(call).collect()));
        let head: TokenStream = "#[allow(dead_code)] pub fn main()".parse().expect("a head parses");
        return head.into_iter().chain([body]).chain(exported()).collect();
    }
    let program: TokenStream =
        format!("#[allow(dead_code)] pub fn main() {{ {run} }}").parse().expect("a program parses");
    [item, program, exported()].into_iter().collect()
}

/// What makes a component of the program, where it is compiled to one.
fn exported() -> TokenStream {
    "::ignite::__exported!(main);".parse().expect("a macro call parses")
}

struct Handler {
    name: String,
    is_async: bool,
}

/// The name of a function and whether it is async, from what stands before its body.
fn read(item: TokenStream) -> Result<Handler, (TokenTree, &'static str)> {
    let mut is_async = false;
    let mut last = None;
    let mut tokens = item.into_iter();
    while let Some(token) = tokens.next() {
        if let TokenTree::Ident(word) = &token {
            match word.to_string().as_str() {
                "async" => is_async = true,
                "fn" => {
                    let Some(TokenTree::Ident(name)) = tokens.next() else {
                        return Err((token, "a function must have a name"));
                    };
                    let name = name.to_string();
                    return match tokens.next() {
                        Some(TokenTree::Group(list)) if list.delimiter() == Delimiter::Parenthesis => {
                            if arguments(list.stream()) == 2 {
                                Ok(Handler { name, is_async })
                            } else {
                                Err((
                                    TokenTree::Group(list),
                                    "a handler takes two arguments: (req: ignite::Request, ctx: ignite::Context)",
                                ))
                            }
                        }
                        Some(other) => Err((other, "a handler has no generic parameters")),
                        None => Err((token, "a function must have arguments")),
                    };
                }
                "struct" | "enum" | "mod" | "impl" | "trait" | "const" | "static" | "use" => {
                    return Err((token, "#[ignite::main] stands before a function"));
                }
                _ => {}
            }
        }
        last = Some(token);
    }
    let at = last.unwrap_or_else(|| TokenTree::Ident(proc_macro::Ident::new("_", proc_macro::Span::call_site())));
    Err((at, "#[ignite::main] stands before a function"))
}

/// How many arguments a list has: commas outside of groups and angle brackets.
fn arguments(list: TokenStream) -> usize {
    let (mut count, mut depth, mut open, mut arrow) = (0, 0, false, false);
    for token in list {
        if let TokenTree::Punct(mark) = &token {
            let ends_arrow = arrow && mark.as_char() == '>';
            arrow = mark.as_char() == '-' && mark.spacing() == Spacing::Joint;
            match mark.as_char() {
                '<' => depth += 1,
                '>' if !ends_arrow => depth -= 1,
                ',' if depth == 0 => {
                    open = false;
                    continue;
                }
                _ => {}
            }
        }
        if !open {
            count += 1;
            open = true;
        }
    }
    count
}

/// A compile error at a token.
fn refuse(at: TokenTree, message: &str) -> TokenStream {
    let error: TokenStream = format!("::core::compile_error!({message:?});").parse().expect("a macro call parses");
    error
        .into_iter()
        .map(|mut token| {
            token.set_span(at.span());
            token
        })
        .collect()
}
