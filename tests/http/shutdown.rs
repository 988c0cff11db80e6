//! The end of a server.

use std::time::Duration;

use tokio::time::timeout;

use crate::events::Lines;
use crate::support::{JSON, Server};

#[tokio::test]
async fn requests_that_have_begun_are_finished_and_followers_end() {
    let mut server = Server::start().await;
    server.still_serves().await;
    let mut follower = Lines::open(&server, "/v1/events?follow=true").await;
    assert_eq!(follower.next().await.unwrap()["position"], 1);

    let path = "/v1/events?wait=views&timeout=20s";
    let order = r#"{"type":"OrderPlaced","data":{"orderId":"1","total":1}}"#;
    let request = server.client.post(server.url(path)).header("content-type", JSON).body(order);
    let waiting = tokio::spawn(request.send());
    while server.log.head().position < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(follower.next().await.unwrap()["position"], 2);
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(follower.next().await, None);
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
    server.backend.shown.send_replace(2);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    let ended = timeout(Duration::from_secs(5), server.task).await;
    ended.expect("it ends once its requests have").unwrap().unwrap();
}
