//! Services that speak HTTP/2, as behind most proxies with TLS.

use h2::{Reason, server};
use rcgen::CertificateParams;

use super::*;

/// How the service ends the body of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stream,
    Reset(Reason),
    /// Right behind the head.
    ResetAtOnce(Reason),
}

/// The outcome of a call that is answered with 200 and this body, ended in this way.
async fn answered(body: &'static str, end: End) -> Outcome {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut config = tls_config(certificate.der().clone(), &key);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/try", tcp.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (stream, _) = tcp.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut connection = server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            match end {
                End::Stream => send.send_data(Bytes::from(body), true).unwrap(),
                End::Reset(reason) => {
                    send.send_data(Bytes::from(body), false).unwrap();
                    tokio::spawn(async move {
                        // What was sent before mostly leaves meanwhile; either way the answer has no end.
                        for _ in 0..100 {
                            tokio::task::yield_now().await;
                        }
                        send.send_reset(reason);
                    });
                }
                End::ResetAtOnce(reason) => send.send_reset(reason),
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, certificate.pem()).unwrap();
    let client = Client::new(&Settings { ca_file, ..Settings::default() }).unwrap();
    client.branch(&url).unwrap().call(&call("1"), &branch_host()).await
}

#[tokio::test]
async fn an_answer_over_http_2_that_ends_is_read() {
    assert!(answered(r#"{"dtm_result":"SUCCESS"}"#, End::Stream).await.has_succeeded());
    assert!(answered("", End::Stream).await.has_succeeded());
}

#[tokio::test]
async fn an_answer_over_http_2_that_is_cut_off_is_no_success() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        for end in [End::Reset(reason), End::ResetAtOnce(reason)] {
            let error = error_of(answered(r#"{"mess"#, end).await);
            assert!(!error.is_empty(), "{end:?}");
        }
    }
}
