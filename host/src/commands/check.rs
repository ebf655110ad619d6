//! `wasaga plugin check`: prints what a host finds out about a file when it loads it.

use std::{error::Error, path::Path, sync::Arc, time::Instant};

use super::{
    name::name_of,
    print::say,
    report::{Report, size},
    verdict::Verdict,
};
use crate::{
    branch::Containment,
    plugin::{
        self, Code, ComponentError, Cost, Plugin, Runtime, Settings,
        grants::{self, containment::OUTGOING_HANDLER},
    },
};

/// Checks a file and prints the findings.
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
            say(format_args!("\nIt is a plugin. `wasaga plugin push {file}{name}` uploads it to a running host."));
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
            say(format_args!("\nIt is not a plugin: {fault}"));
            Ok(Verdict::Bad)
        }
    }
}

fn examine(runtime: &Runtime, file: &Path, name: &str, report: &mut Report) -> Result<Arc<Plugin>, ComponentError> {
    report.add("file", file.display().to_string());
    report.add("name", format!("{name}: its grants are those of {}", grants::header(name)));
    let bytes = plugin::read(file, runtime.limits())?;
    report.add("size", size(bytes.len() as u64));
    let started = Instant::now();
    let plugin = Plugin::load(runtime, name, &bytes)?;
    let took = started.elapsed();
    report.add("sha256", plugin.digest().to_string());
    if plugin.code() == Code::Compiled {
        let cost = plugin.compile_cost().map_or_else(String::new, |cost| of(cost, runtime));
        report.add(
            "compiled",
            format!("in {} ms{cost}; a host compiles it once and caches the result", took.as_millis()),
        );
    }
    report.add("exports", format!("{}: try, cancel", plugin::INTERFACE));
    report.add("imports", plugin.imports().collect::<Vec<_>>().join("\n"));
    let classification = plugin.classification();
    let reach = if classification.containment == Containment::Contained { "contained" } else { "external" };
    report.add("reach", format!("{reach}: it {}", classification.reason));
    report.add("grants", grants(&plugin));
    Ok(plugin)
}

/// What compiling took of what it may take.
fn of(cost: Cost, runtime: &Runtime) -> String {
    let limits = runtime.compile_limits();
    let (memory, memory_max) = (size(cost.memory_bytes), size(limits.memory_bytes));
    let (cpu, cpu_max) = (cost.cpu.as_secs_f64(), limits.cpu.as_secs());
    format!(", with {memory} of memory (limit {memory_max}) and {cpu:.1} s of processor time (limit {cpu_max} s)")
}

/// The grants that the plugin's imports can need.
fn grants(plugin: &Plugin) -> String {
    let imports = |interface: &str| plugin.imports().any(|import| import.split('@').next() == Some(interface));
    let mut needed = Vec::new();
    if imports(OUTGOING_HANDLER) && plugin.classification().containment == Containment::Contained {
        needed.push("http: the addresses that it may send requests to; without this grant requests are refused");
    }
    if imports("wasi:config/store") {
        needed.push("config, secrets: the settings that it reads");
    }
    if imports("wasi:keyvalue/store") {
        needed.push("shared: the buckets that it shares with other plugins; its own buckets need no grant");
    }
    if needed.is_empty() {
        return "none needed".into();
    }
    format!("{} in the host's settings can have\n{}", grants::header(plugin.name()), needed.join("\n"))
}
