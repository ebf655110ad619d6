//! Where gRPC branches may go. The rules are those of HTTP branches.

use wasaga::{
    branch::{
        Branch, Outcome,
        grpc::{Client, Error},
        http::Settings,
    },
    egress::rules::Unlisted,
    saga::{Options, Verdict},
};
use wasaga_testkit::{branch_call, branch_host};

use crate::participant::Participant;

fn settings(deny: &[&str], unlisted: Unlisted) -> Settings {
    Settings { deny: deny.iter().map(|text| text.parse().unwrap()).collect(), unlisted, ..Settings::default() }
}

#[test]
fn a_destination_that_may_not_be_called_is_refused_where_it_is_given() {
    for (settings, address, words) in [
        (settings(&[], Unlisted::Public), "127.0.0.1:1/a.B/C", r#"add "127.0.0.1:1" to allow under [http]"#),
        (settings(&[], Unlisted::Public), "[::1]:1/a.B/C", r#"add "[::1]:1" to allow under [http]"#),
        (settings(&[], Unlisted::Public), "LocalHost:1/a.B/C", r#"add "localhost:1" to allow under [http]"#),
        (settings(&[], Unlisted::All), "169.254.169.254:80/a.B/C", r#"add "169.254.169.254:80" to allow"#),
        (settings(&["Pay.example"], Unlisted::All), "PAY.example:1/a.B/C", r#""pay.example" in deny under [http]"#),
    ] {
        match Client::new(&settings).branch(address) {
            Err(Error::Destination(refused)) => assert!(refused.to_string().contains(words), "{address}: {refused}"),
            Err(error) => panic!("{address}: {error}"),
            Ok(_) => panic!("{address} is not refused"),
        }
    }
    let off = Client::new(&Settings { grpc_branches: false, ..Settings::default() }).branch("127.0.0.1:1/a.B/C");
    assert!(matches!(off, Err(error @ Error::Off) if error.to_string().contains("grpc_branches = true under [http]")));
}

/// `127.1` is a name to all but the system's resolver: what it means is known when the connection is opened.
#[tokio::test]
async fn what_a_name_means_is_checked_when_it_is_called() {
    let participant = Participant::start().await;
    let address = participant.url("TransIn").replace("127.0.0.1", "127.1");
    let (call, host) = (branch_call("g", &["1"], Options::default()), branch_host());
    let outcome = Client::new(&Settings::default()).branch(&address).unwrap().call(&call, &host).await;
    assert!(outcome.has_succeeded(), "{outcome:?}");
    for (settings, words) in [
        (
            settings(&["127.0.0.0/8"], Unlisted::All),
            r#"(127.0.0.1) may not be called: "127.0.0.0/8" in deny under [http]"#,
        ),
        (settings(&[], Unlisted::Public), r#"add "127.1:"#),
    ] {
        let outcome = Client::new(&settings).branch(&address).unwrap().call(&call, &host).await;
        let Outcome::Ended { verdict: Verdict::Unknown { error }, .. } = outcome else { panic!("{outcome:?}") };
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(participant.names(), ["TransIn"]);
}
