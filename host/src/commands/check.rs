//! `wasaga plugin check`: all that the host would find out about a file when it loads it, on one screen.

use std::{error::Error, path::Path, sync::Arc, time::Instant};

use super::{
    Verdict, name_of,
    print::say,
    report::{Report, size},
};
use crate::{
    branch::Containment,
    plugin::{self, Code, ComponentError, Plugin, Runtime, Settings, grants::containment::OUTGOING_HANDLER},
};

/// Checks a file and prints what was found.
pub fn run(settings: &Settings, file: &Path, name: Option<&str>) -> Result<Verdict, Box<dyn Error>> {
    let known_as = name_of(file, name)?;
    let runtime = Runtime::new(settings)?;
    let mut report = Report::default();
    let outcome = examine(&runtime, file, known_as, &mut report);
    say(report.text().trim_end());
    match outcome {
        Ok(plugin) => {
            let file = file.display();
            let name = name.map_or_else(String::new, |name| format!(" --name {name}"));
            say(format_args!("\nIt is a plugin. `wasaga plugin push {file}{name}` hands it to a running host."));
            let answer = if plugin.classification().containment == Containment::Contained {
                ""
            } else {
                " --answer STATUS:BODY"
            };
            say(format_args!(
                "`wasaga plugin test {file}{name} --payload JSON{answer}` runs it here, with a payload that it accepts."
            ));
            Ok(Verdict::Good)
        }
        Err(fault) => {
            say(format_args!("\nIt is no plugin: {fault}"));
            Ok(Verdict::Bad)
        }
    }
}

fn examine(runtime: &Runtime, file: &Path, name: &str, report: &mut Report) -> Result<Arc<Plugin>, ComponentError> {
    report.add("file", file.display().to_string());
    report.add("name", format!("{name}: its grants are those of [plugins.grants.{name}]"));
    let bytes = plugin::read(file, runtime.limits())?;
    report.add("size", size(bytes.len() as u64));
    let started = Instant::now();
    let plugin = Plugin::load(runtime, name, &bytes)?;
    let took = started.elapsed();
    report.add("sha256", plugin.digest().to_string());
    if plugin.code() == Code::Compiled {
        report.add("compiled", format!("in {} ms; a host does that once and keeps it", took.as_millis()));
    }
    report.add("exports", format!("{}: try, cancel", plugin::INTERFACE));
    report.add("imports", plugin.imports().collect::<Vec<_>>().join("\n"));
    let classification = plugin.classification();
    let reach = if classification.containment == Containment::Contained { "contained" } else { "external" };
    report.add("reach", format!("{reach}: it {}", classification.reason));
    report.add("grants", grants(&plugin));
    Ok(plugin)
}

/// What it would have to be granted for what it imports.
fn grants(plugin: &Plugin) -> String {
    let imports = |interface: &str| plugin.imports().any(|import| import.split('@').next() == Some(interface));
    let mut wants = Vec::new();
    if imports(OUTGOING_HANDLER) && plugin.classification().containment == Containment::Contained {
        wants.push("http: the addresses that it may ask, if it is to ask any; without, requests are refused");
    }
    if imports("wasi:config/store") {
        wants.push("config, secrets: the settings that it reads, if it reads any");
    }
    if imports("wasi:keyvalue/store") {
        wants.push("shared: the buckets that it has together with others, if any; its own need no grant");
    }
    if wants.is_empty() {
        return "it needs none".into();
    }
    format!("[plugins.grants.{}] in the host's settings has\n{}", plugin.name(), wants.join("\n"))
}
