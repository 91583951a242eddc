package events

// OrgChartUpdated is the data of org.chart_updated.
type OrgChartUpdated struct {
	WorkspaceID string   `json:"workspaceId"       rule:"id"      doc:"The workspace."`
	Version     int64    `json:"version"           rule:"version" doc:"The chart's version after the fact."`
	Changed     []string `json:"changed,omitempty" rule:"paths"   doc:"The ids of the departments and positions that changed; * when too many did."`
	Departments int64    `json:"departments"       rule:"count"   doc:"How many departments the chart has."`
	Positions   int64    `json:"positions"         rule:"count"   doc:"How many positions the chart has."`
}

func (p OrgChartUpdated) key() key {
	return key{aggregate: "org_chart", id: p.WorkspaceID, version: p.Version, workspace: p.WorkspaceID}
}
