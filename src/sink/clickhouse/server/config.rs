//! The configuration file of the own ClickHouse, the same for the program and for the library.

use std::path::Path;

/// The configuration for a ClickHouse that keeps its data below `dir`. Caches and pools are small:
/// it is a guest beside the dataflow, and what it serves are read models, not a warehouse.
pub(super) fn render(dir: &Path, http_port: u16, tcp_port: u16, is_reserved: bool) -> String {
    // A port that is held for ClickHouse is shared with the socket that holds it.
    let reuse_port = u8::from(is_reserved);
    let dir = escape(&dir.display().to_string());
    format!(
        "<!-- written by heliostat at every start; changes are lost -->
<clickhouse>
  <path>{dir}/data/</path>
  <tmp_path>{dir}/data/tmp/</tmp_path>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{http_port}</http_port>
  <listen_reuse_port>{reuse_port}</listen_reuse_port>
  <tcp_port>{tcp_port}</tcp_port>
  <log-level>warning</log-level>
  <logger>
    <level>warning</level>
    <log>{dir}/clickhouse.log</log>
    <size>20M</size>
    <count>2</count>
  </logger>
  <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
  <mark_cache_size>134217728</mark_cache_size>
  <primary_index_cache_size>134217728</primary_index_cache_size>
  <index_mark_cache_size>33554432</index_mark_cache_size>
  <compiled_expression_cache_size>33554432</compiled_expression_cache_size>
  <background_pool_size>4</background_pool_size>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <merge_tree>
    <!-- relative to 4 threads × 2, not to the 16 × 2 that the defaults have in mind -->
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
    <old_parts_lifetime>10</old_parts_lifetime>
  </merge_tree>
  <user_directories>
    <users_xml><path>{dir}/config.xml</path></users_xml>
    <local_directory><path>{dir}/access/</path></local_directory>
  </user_directories>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <access_management>1</access_management>
    </default>
  </users>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
</clickhouse>
"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
