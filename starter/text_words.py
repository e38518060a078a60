"""Word lists of the sentence grammar: slot name -> the words (or templates) that may fill it.

Words that sound alike are kept out of the same slot, since no recognizer could tell them apart, and only
他 of 他/她/它 is used.
"""

from __future__ import annotations

_LISTS = {
    "who": "我 你 他 我们 他们 大家 妈妈 爸爸 老师 同学 孩子 朋友 同事 经理 爷爷 奶奶 哥哥 妹妹",
    "family": "妈妈 爸爸 爷爷 奶奶 哥哥 妹妹 孩子 女儿 儿子",
    "day": "今天 明天 后天 昨天 前天 周末 {weekday} {date}",
    "next_day": "今天 明天 后天 周末 下周 下个月 {weekday} {date} 今天晚上 明天早上 后天下午",
    "past_day": "昨天 前天 上周 上个月 去年 今天早上",
    "part": "早上 上午 中午 下午 晚上",
    "surname": "王 李 张 刘 陈 杨 赵 黄 周 吴 孙 马 林 高",
    "title": "先生 女士 老师 经理 医生 师傅 小姐",
    "given": "小明 建国 志强 海燕 文静 美玲 春生 丽华",
    "person": "{surname}{title} {surname}{title} {surname}{given} {given}",
    "city": "北京 上海 广州 深圳 杭州 南京 成都 重庆 武汉 西安 天津 苏州 长沙 青岛",
    "place": "公司 学校 医院 银行 超市 公园 机场 火车站 图书馆 饭店 商店 "
    "办公室 电影院 邮局 餐厅 酒店 地铁站 会议室",
    "venue": "公园 超市 图书馆 电影院 餐厅 海边 动物园 商场 体育馆",
    "vehicle": "地铁 飞机 火车 汽车 高铁 公交车 出租车",
    "weather": "下雨 下雪 刮风 打雷 多云 晴天 阴天 有雾 降温",
    "feel": "很冷 很热 很暖和 很凉快 有点冷 非常热 很舒服 比较干燥",
    "wind": "东风 南风 西风 北风 大风",
    "season": "春天 夏天 秋天 冬天",
    "room": "客厅 卧室 厨房 书房 阳台 洗手间 儿童房 车库",
    "device": "空调 电视 电灯 风扇 窗帘 音响 热水器 洗衣机 扫地机器人 摄像头",
    "switch": "打开 关闭 关掉 启动",
    "fruit": "苹果 香蕉 西瓜 葡萄 草莓 橙子 桃子 梨",
    "food": "米饭 面条 饺子 包子 牛肉 鸡蛋 鱼 豆腐 青菜 蛋糕 面包 烤鸭 火锅 汤",
    "drink": "牛奶 咖啡 绿茶 红茶 果汁 啤酒 矿泉水 豆浆",
    "goods": "手机 电脑 衣服 鞋子 帽子 耳机 手表 雨伞 书包 椅子 桌子 冰箱 眼镜",
    "color": "红色 黑色 白色 蓝色 绿色 黄色 灰色 粉色",
    "size": "大号 中号 小号",
    "song": "流行音乐 古典音乐 轻音乐 儿歌 新闻 广播 天气预报 有声小说",
    "hobby": "看书 跑步 游泳 唱歌 跳舞 画画 爬山 打篮球 踢足球 做饭 拍照 旅游",
    "subject": "数学 语文 英语 历史 音乐 美术",
    "project": "语音识别 产品设计 市场推广 客户服务 数据分析 系统升级 人工智能 安全检查 网站",
    "document": "报告 合同 文件 计划 方案 表格 邮件 材料 会议记录",
    "topic": "预算 进度 质量 需求 价格 时间表 测试结果 人员安排 下一步计划",
    "dept": "财务部 技术部 市场部 人事部 销售部 客服部",
    "work": "开会 上班 出差 加班 面试 培训 值班",
    "service": "流量 套餐 话费 宽带 会员 保险 信用卡 快递 账户 订单",
    "problem": "网络很慢 打不开网页 收不到短信 没有声音 不能登录 密码错了 信号不好 屏幕不亮 无法付款",
    "body": "头 肚子 眼睛 手 脚",
    "adj": "很好 不错 非常好 很重要 很有意思 比较难 很简单 太贵了 很便宜 很漂亮",
    "sport": "足球 篮球 网球",
    "action": "休息 吃饭 睡觉 回家 出门 看电视 写作业 打电话 喝水 买菜 洗澡 锻炼身体",
    "animal": "小狗 小猫 熊猫 老虎 大象",
    "unit_food": "斤 份",
    "unit_drink": "杯 瓶 箱",
    "language": "中文 英文 日文 法文 德文",
}

WORDS: dict[str, tuple[str, ...]] = {slot: tuple(words.split()) for slot, words in _LISTS.items()}
"""Slot name -> alternatives; an alternative may itself hold {slots}."""

_COMMANDS = (
    "好 是 对 嗯 不 停 开 关 有 要 行 喂 来 走 "
    "你好 谢谢 再见 好的 是的 不是 不要 可以 开始 停止 暂停 继续 确定 取消 返回 退出 帮助 上一首 下一首 "
    "开灯 关灯 开门 关门 静音 拍照 录音 开机 关机 重启 不对 没有 没事 当然 快点 等等 加油 "
    "大声点 小声点 再来一次 打开空调 关闭电视 不客气 对不起 没关系 没问题 知道了 我明白 不可以 请稍等 "
    "语音识别 回到首页 下一页 上一页 接电话 挂电话 听音乐 看新闻 别说了 晚安 早上好 下午好 晚上好 请说 请讲"
)
SHORT_COMMANDS = tuple(_COMMANDS.split())
"""Utterances of one to four characters that stand alone."""

_INTERJECTIONS_WORDS = "好的 你好 谢谢 对不起 没关系 没问题 不好意思 是的 对 嗯 喂 当然可以"
INTERJECTIONS = tuple(_INTERJECTIONS_WORDS.split())
"""Openers: inside a longer sentence a comma always follows one of these."""
