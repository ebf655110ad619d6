//! README.md lists every case, and every case that it lists has its test.

use std::{collections::BTreeSet, fs, path::Path};

/// The saga tests of DTM 1.19.
const SAGAS: [&str; 43] = [
    "SagaNormal",
    "SagaRollback",
    "SagaOngoingSucceed",
    "SagaFailed",
    "SagaAbnormal",
    "SagaEmptyUrl",
    "SagaOptionsRetryOngoing",
    "SagaOptionsRetryError",
    "SagaOptionsTimeout",
    "SagaGlobalTransWithRequestTimeout",
    "SagaOptionsNormalWait",
    "SagaOptionsCommittedOngoingWait",
    "SagaOptionsRollbackWait",
    "SagaHeaders",
    "SagaHeadersYes1",
    "SagaGlobalTransWithRetryLimitYes",
    "SagaGlobalTransWithRetryLimitNo",
    "SagaConNormal",
    "SagaConRollbackNormal",
    "SagaConRollbackOrder",
    "SagaConRollbackOrder2",
    "SagaConCommittedOngoing",
    "SagaCompatibleNormal",
    "SagaBarrierNormal",
    "SagaBarrierRollback",
    "SagaBarrier2Normal",
    "SagaBarrierRedisNormal",
    "SagaBarrierRedisRollback",
    "SagaBarrierMongoNormal",
    "SagaBarrierMongoRollback",
    "SagaGrpcNormal",
    "SagaGrpcRollback",
    "SagaGrpcCurrent",
    "SagaGrpcCurrentOrder",
    "SagaGrpcCommittedOngoing",
    "SagaGrpcNormalWait",
    "SagaGrpcEmptyUrl",
    "SagaGrpcWithGlobalTransRequestTimeout",
    "SagaGrpcOptionsRollbackWait",
    "SagaGrpcHeaders",
    "SagaGrpcCronHeaders",
    "SagaGrpcBarrierNormal",
    "SagaGrpcBarrierRollback",
];

/// Its tests of API and store.
const OTHERS: [&str; 25] = [
    "APIVersion",
    "APIQuery",
    "APIAll",
    "APIScanKV",
    "APIQueryKV",
    "DtmMetrics",
    "APIResetCronTime",
    "APIForceStoppedNormal",
    "APIForceStoppedAbnormal",
    "APIResetNextCronTime",
    "StoreSave",
    "StoreChangeStatus",
    "StoreLockTrans",
    "StoreResetCronTime",
    "StoreResetTransGlobalCronTime",
    "StoreUpdateBranches",
    "UpdateBranchAsync",
    "GrpcPanic",
    "MsgWebhook",
    "MsgWebhookError",
    "MsgJrpcAbnormal",
    "MustGenGid",
    "BaseHttp",
    "TopicNormal",
    "ConcurrentUpdateTopic",
];

/// What DTM does not test.
const BEYOND: usize = 25;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dtm"))
}

/// The tests of this folder, and of that for gRPC: a function that stands right below its attribute.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let files = |folder: &Path| fs::read_dir(folder).unwrap();
    for entry in files(folder()).chain(files(&folder().with_file_name("grpc"))) {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for (attribute, function) in text.lines().zip(text.lines().skip(1)) {
            let name = function.trim().trim_start_matches("async ").strip_prefix("fn ");
            if let Some(name) = name.filter(|_| attribute.trim().contains("test") && attribute.trim().starts_with("#["))
            {
                tests.insert(name.split('(').next().unwrap().to_owned());
            }
        }
    }
    tests
}

#[test]
fn every_case_is_in_the_table_and_has_its_test() {
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    let tests = tests();
    assert!(tests.len() > 80, "{tests:?}");
    let mut listed = Vec::new();
    for row in readme.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [case, test, dtm, ours, deviation] = cells[..] else { continue };
        if case == "Case" {
            continue;
        }
        let test = test.trim_matches('`');
        assert!(tests.contains(test), "{case} names the test {test:?}, which is not there");
        assert!(!dtm.is_empty() && !ours.is_empty(), "{row}");
        assert!(ours.starts_with("the same") || !deviation.is_empty(), "{case} deviates without a reason");
        listed.push(case.to_owned());
    }
    let beyond = (1..=BEYOND).map(|number| number.to_string());
    let wanted: Vec<_> = SAGAS.into_iter().chain(OTHERS).map(str::to_owned).chain(beyond).collect();
    assert_eq!(listed, wanted);
}
